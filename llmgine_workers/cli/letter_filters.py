"""`--tenant --chain --step ...`: the letters that a command is about."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from llmgine_workers.cli import values
from llmgine_workers.cli.exits import Usage

if TYPE_CHECKING:
    from llmgine_workers.ledger.letters import Wanted

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Letters' or jobs' ids.")
]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of this tenant.")]
ChainOption = Annotated[str | None, typer.Option("--chain", help="Of this chain.")]
StepOption = Annotated[str | None, typer.Option("--step", help="That failed here.")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Of this pool.")]
CodeOption = Annotated[str | None, typer.Option("--code", help="With this error.")]
FingerprintOption = Annotated[
    str | None, typer.Option("--fingerprint", help="Of this group.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="An age (2h) or RFC 3339.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Up to then.")
]
StateOption = Annotated[
    str, typer.Option("--state", help="open, resolved, ignored or any.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All open letters.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def wanted(state: str = "open", **given: str | None) -> Wanted:
    """The filters as they were given. Usage for an unknown state or time."""
    from llmgine_workers.ledger.letters import STATES, Wanted

    if state not in (*STATES, "any"):
        raise Usage(f"--state {state[:60]}: write {', '.join(STATES)} or any")
    times: dict[str, Any] = {
        name: datetime.fromisoformat(values.moment(f"--{name}", text))
        for name in ("since", "until")
        if (text := given.pop(name, None)) is not None
    }
    for name, text in given.items():
        if text is not None and ("\0" in text or not text):
            raise Usage(f"--{name}: an empty text names nothing")
    return Wanted(**given, **times, state=None if state == "any" else state)  # type: ignore[arg-type]


def named(
    ids: Sequence[str] | None, filters: Wanted, *, every: bool
) -> list[UUID] | None:
    """The ids, or None where filters (or `--all`) choose. Usage if neither or both do."""
    from llmgine_workers.ledger.letters import Wanted

    has_filters = filters != Wanted(state=filters.state)
    if bool(ids) + has_filters + every != 1:
        raise Usage("name letters by their ids, by filters, or by --all")
    return [uuid(text) for text in ids] if ids else None


def uuid(text: str) -> UUID:
    """Usage if it is none."""
    try:
        return UUID(text)
    except ValueError:
        raise Usage(f"{text[:60]!r} is not the id of a letter or a job") from None


def operator() -> str:
    """Who did it, for the letter's record."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"


def check_can_ask(*, yes: bool) -> None:
    """Usage where consent is needed and nobody can be asked, before anything is done."""
    if not yes and not sys.stdin.isatty():
        raise Usage("without a terminal this needs --yes")


def ask(question: str, *, yes: bool) -> None:
    """Go on only with consent."""
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit
