"""The pools of an installation, straight from its stores."""

from __future__ import annotations

import typer

from llmgine_workers.cli import reach, terminal
from llmgine_workers.cli.invocation import JsonOption

commands = typer.Typer(no_args_is_help=True, help="The pools of workers.")

_COLUMNS = (
    "pool", "workers", "slots", "queued", "running", "waiting", "credit", "backlogged",
    "gate", "until",
)  # fmt: skip


@commands.callback()
def _group() -> None:
    """The pools of workers."""


@commands.command("list")
def list_pools(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the pools: live workers, steps, and whether calls may start."""
    from gateway import pools

    found = reach.stores(context, pools.listed)
    if as_json:
        terminal.say_json({"data": found})
        return
    rows = [{**one, "gate": one["gate"]["state"], "until": one["gate"]["until"]}
            for one in found]  # fmt: skip
    terminal.say_table(_COLUMNS, rows, empty="no pools")
