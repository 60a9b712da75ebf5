"""Webhooks of an installation, straight from its ledger."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from llmgine_workers.cli import reach, terminal
from llmgine_workers.cli.exits import Usage
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

commands = typer.Typer(no_args_is_help=True, help="Webhooks, and sending them again.")

_COLUMNS = ("at", "status", "error", "ms")
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="a job's id")]


@commands.callback()
def _group() -> None:
    """Webhooks, and sending them again."""


@commands.command("show")
def show(
    context: typer.Context, job: JobArgument, *, as_json: JsonOption = False
) -> None:
    """Show how a job's webhook was delivered: its state and the last tries."""
    from llmgine_workers.ledger import shown, webhooks

    key = _id(job)
    rows = reach.ledger(context, lambda ledger: webhooks.of_job(ledger, key, None))
    found: list[dict[str, Any]] = [shown.webhook(row) for row in rows]
    if as_json:
        terminal.say_json({"data": found})
        return
    if not found:
        raise _none(job)
    for one in found:
        terminal.say(f"run {one['run']}: {one['state']}, tried {one['tries']} times")
        terminal.say_table(_COLUMNS, one["log"], empty="not tried yet")


@commands.command("redeliver")
def redeliver(
    context: typer.Context, job: JobArgument, *, as_json: JsonOption = False
) -> None:
    """Send a job's newest webhook again, for another 24 hours."""
    from llmgine_workers.ledger import webhooks

    key = _id(job)
    if not reach.ledger(context, lambda ledger: webhooks.redeliver(ledger, key, None)):
        raise _none(job)
    if as_json:
        terminal.say_json({"job": job, "state": "pending"})
    else:
        terminal.say(f"the webhook of {job} is sent again")


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Usage(f"{text!r} is no job's id") from None


def _none(job: str) -> LlmgineError:
    return LlmgineError(f"job {job} has no webhook, or has not ended", "not_found")
