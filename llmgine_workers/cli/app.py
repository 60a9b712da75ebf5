"""The command line as a whole: its commands, and how every one of them ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmgine_workers.cli import (
    api_keys,
    chain_commands,
    dlq_replay,
    job_lists,
    operate,
    pools,
    run,
    terminal,
    use,
    webhooks,
)
from llmgine_workers.cli.endings import conclude
from llmgine_workers.cli.exits import Exit
from llmgine_workers.cli.invocation import Invocation

app = typer.Typer(
    name="llmgine",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings; else ./llmgine.toml, else /etc/llmgine/llmgine.toml.",
    ),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is one of `Exit`, and there is no stack trace."""
    try:
        app(args=None if argv is None else list(argv), prog_name="llmgine")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.USAGE
    except BaseException as error:  # the one place where every failure ends
        return conclude(error)
    return Exit.OK


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        terminal.say(version("llmgine-workers"))
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    config: ConfigOption = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="And exit."
        ),
    ] = False,
) -> None:
    """LLM work as durable jobs on RabbitMQ."""
    context.obj = Invocation(config)


def _register() -> None:
    panel = "Run"
    app.command(rich_help_panel=panel)(run.up)
    app.command(rich_help_panel=panel)(run.demo)
    app.command(rich_help_panel=panel)(run.gateway)
    app.command(rich_help_panel=panel)(run.worker)
    app.command(rich_help_panel=panel)(run.scheduler)
    app.command(rich_help_panel=panel)(run.flower)
    app.command(rich_help_panel=panel, add_help_option=False, **run.PASS_ON)(run.simulate)
    app.command(rich_help_panel=panel)(run.migrate)
    panel = "Use"
    app.command(rich_help_panel=panel)(use.submit)
    app.command(rich_help_panel=panel)(use.watch)
    app.add_typer(job_lists.jobs, name="jobs", rich_help_panel=panel)
    app.add_typer(chain_commands.commands, name="chains", rich_help_panel=panel)
    panel = "Operate"
    app.command(rich_help_panel=panel)(operate.status)
    app.add_typer(pools.commands, name="pools", rich_help_panel=panel)
    app.add_typer(webhooks.commands, name="webhooks", rich_help_panel=panel)
    app.add_typer(dlq_replay.commands, name="dlq", rich_help_panel=panel)
    app.add_typer(api_keys.commands, name="keys", rich_help_panel=panel)
    app.command(rich_help_panel=panel)(operate.prune)
    app.command(rich_help_panel=panel)(operate.doctor)


_register()

if __name__ == "__main__":
    sys.exit(main())
