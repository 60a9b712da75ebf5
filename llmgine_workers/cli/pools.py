"""The pools of an installation, straight from its stores."""

from __future__ import annotations

from typing import Annotated

import typer

from llmgine_workers.cli import invocation, reach, terminal
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

commands = typer.Typer(no_args_is_help=True, help="The pools of workers.")

_COLUMNS = (
    "pool", "workers", "slots", "queued", "running", "waiting", "credit", "backlogged",
    "gate", "until", "paused",
)  # fmt: skip

PoolArgument = Annotated[
    str, typer.Argument(metavar="POOL", help="a provider's name, or tools")
]


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
    rows = [{**one, "gate": one["gate"]["state"], "until": one["gate"]["until"],
             "paused": one["paused"] and one["paused"]["since"]}
            for one in found]  # fmt: skip
    terminal.say_table(_COLUMNS, rows, empty="no pools")


@commands.command("pause")
def pause(
    context: typer.Context,
    pool: PoolArgument,
    *,
    reason: Annotated[str | None, typer.Option(help="shown to whoever waits")] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin no call of this pool any more: its steps wait, and nothing fails."""
    from llmgine_workers.ledger import pools

    _known(context, pool)
    reach.ledger(context, lambda ledger: pools.pause(ledger, pool, reason))
    if as_json:
        terminal.say_json({"pool": pool, "paused": True})
    else:
        terminal.say(f"{pool} is paused; calls that are running go on to their end")


@commands.command("resume")
def resume(
    context: typer.Context, pool: PoolArgument, *, as_json: JsonOption = False
) -> None:
    """Let a paused pool go on; what waited for it is released."""
    from llmgine_workers.ledger import pools

    _known(context, pool)
    was = reach.ledger(context, lambda ledger: pools.resume(ledger, pool))
    if as_json:
        terminal.say_json({"pool": pool, "paused": False, "was_paused": was})
    else:
        terminal.say(f"{pool} goes on" if was else f"{pool} was not paused")


def _known(context: typer.Context, pool: str) -> None:
    """LlmgineError for a pool that these settings do not have."""
    from llmgine_workers.settings import TOOLS_POOL

    settings = invocation.of(context).settings()
    known = (*settings.providers, TOOLS_POOL)
    if pool not in known:
        raise LlmgineError(
            f"no pool {pool!r}; there are: {', '.join(known)}", "not_found"
        )
