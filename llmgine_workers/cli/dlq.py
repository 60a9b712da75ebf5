"""Dead letters on the command line: list, show, replay, reconcile."""

from __future__ import annotations

import getpass
from typing import Annotated
from uuid import UUID

import typer

from llmgine_workers.cli import reach, terminal
from llmgine_workers.cli.exits import PartlyDone, Usage
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

commands = typer.Typer(no_args_is_help=True, help="Dead letters: failed jobs and why.")

_COLUMNS = ("id", "created_at", "tenant", "chain", "step", "code", "message")

LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="A letter's or job's.")]


@commands.command("list")
def list_letters(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the open dead letters, newest first."""
    from llmgine_workers import dead_letters

    found = reach.stores(context, lambda rt: dead_letters.list_open(rt, limit))
    if as_json:
        terminal.say_json({"data": found})
        return
    rows = [{**one, **(one.get("error") or {}), "step": one["step"]} for one in found]
    terminal.say_table(_COLUMNS, rows, empty="no open dead letters")


@commands.command("show")
def show_letter(
    context: typer.Context, letter: LetterArgument, *, as_json: JsonOption = False
) -> None:
    """Show one dead letter."""
    from llmgine_workers import dead_letters
    from llmgine_workers.cli import shown

    id_ = _uuid(letter)
    found = reach.stores(context, lambda rt: dead_letters.show(rt, id_))
    if found is None:
        raise LlmgineError(f"no dead letter {letter}", "not_found")
    if as_json:
        terminal.say_json(found)
    else:
        shown.letter(found)


@commands.command("replay")
def replay_letters(
    context: typer.Context,
    letters: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Letters or jobs.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Run failed jobs again, each from the step that failed."""
    from llmgine_workers.engine.replay import replay

    ids = [_uuid(letter) for letter in letters]
    done = reach.stores(context, lambda rt: replay(rt, ids, _operator()))
    refused = [one for one in done if one.refused]
    if as_json:
        terminal.say_json({"data": [vars(one) for one in done]})
    else:
        for one in done:
            if not one.refused:
                terminal.say(f"replayed {one.letter}: llmgine watch {one.job}")
    for one in refused:
        terminal.note(f"not replayed {one.letter}: {one.refused}")
    if len(refused) == len(done):
        raise LlmgineError("nothing was replayed", "already_resolved")
    if refused:
        raise PartlyDone(f"{len(done) - len(refused)} of {len(done)} were replayed")


@commands.command()
def reconcile(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Make the broker's dead-letter queue hold exactly the open letters, now."""
    from llmgine_workers import dead_letters

    done = reach.stores(context, dead_letters.reconcile)
    if as_json:
        terminal.say_json(done)
    else:
        terminal.say(", ".join(f"{count} {name}" for name, count in done.items()))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Usage(f"{text[:60]!r} is not the id of a letter or a job") from None


def _operator() -> str:
    """Who did it, for the letter's record."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"
