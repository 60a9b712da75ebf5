"""Commands that run something: up, demo, and each process by itself."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmgine_workers.cli import invocation, terminal
from llmgine_workers.cli.exits import Usage
from llmgine_workers.cli.invocation import JsonOption

PASS_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}
}
"""For `simulate`: the simulator reads its own arguments, it knows nothing of ours."""


class Pool(Enum):
    """How a worker runs steps side by side."""

    ASYNCIO = "asyncio"
    THREADS = "threads"


def up(
    context: typer.Context,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget all jobs and keys first.")
    ] = False,
) -> None:
    """Run everything on this machine until Ctrl-C; nothing need be installed."""
    from llmgine_workers.cli import everything

    given = invocation.of(context)
    invocation.wait_for(lambda: everything.run(given, reset=reset))


def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        Path | None, typer.Option(help="Leave logs and data in this new folder.")
    ] = None,
) -> None:
    """Show the whole line in a minute, and check everything that is shown."""
    from llmgine_workers.cli import demo as show

    given = invocation.of(context)
    settings = given.written_settings()
    invocation.wait_for(lambda: show.run(settings, given.environ, keep))


def gateway(context: typer.Context) -> None:
    """Run the HTTP front."""
    from gateway import app

    given = invocation.of(context)
    settings = given.settings()
    app.serve(settings, given.environ)


def worker(
    context: typer.Context,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="A provider, or tools.")],
    *,
    slots: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Steps at once.")
    ] = None,
    kind: Annotated[
        Pool, typer.Option("--pool", help="threads if your tools dislike greenlets.")
    ] = Pool.ASYNCIO,
) -> None:
    """Run one worker process of a pool."""
    given = invocation.of(context)
    settings = given.settings()
    pools = settings.pools(given.environ)
    if pool not in pools:
        raise Usage(f"no pool {pool!r}; there are: {', '.join(pools)}")
    from llmgine_workers import worker as program

    app = program.build(settings, given.environ)
    queue = f"{settings.broker.prefix}.{pool}"
    arguments = ["worker", "-Q", queue, "--loglevel", "WARNING"]
    arguments += ["--concurrency", str(slots or settings.worker.slots)]
    if kind is Pool.THREADS:
        arguments += ["--pool", "threads"]
    app.worker_main(arguments)


def scheduler(context: typer.Context) -> None:
    """Run what is driven by time; any number of them may run."""
    from llmgine_workers import scheduler as program

    given = invocation.of(context)
    settings = given.settings()
    invocation.wait_for(lambda: program.serve(settings, given.environ))


def flower(
    context: typer.Context,
    *,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Look, but never act.")
    ] = False,
) -> None:
    """Run Flower: workers, tasks and the broker's queues, behind a password."""
    from llmgine_workers import monitor

    given = invocation.of(context)
    monitor.serve(given.settings(), given.environ, read_only=read_only)


def simulate(context: typer.Context) -> None:
    """Run a simulated provider; `llmgine simulate --help` tells its options."""
    from llmgine_workers import simulator

    raise typer.Exit(simulator.main(context.args))


def migrate(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Make the schema and the queues, or bring them up to date; push the chains."""
    from llmgine_workers.cli import installation

    given = invocation.of(context)
    settings = given.settings()
    done = invocation.wait_for(lambda: installation.migrate(settings, given.environ))
    if as_json:
        terminal.say_json({"done": done})
    else:
        for line in done:
            terminal.say(line)
