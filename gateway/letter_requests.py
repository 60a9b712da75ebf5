"""Which letters a request means, and what is to become of them: checked whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints
from pydantic_core import PydanticCustomError

from gateway.auth import Caller
from gateway.errors import Problem
from gateway.submission import Strict, valid
from llmgine_workers.engine.replays import RATE, Asked
from llmgine_workers.ledger.letters import Wanted
from llmgine_workers.ledger.replays import Chosen

MAX_IDS = 10_000
"""Of one request; whoever has more has a filter."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_not_allowed", "no text can have U+0000")
    return text


Text = Annotated[
    str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_without_nul)
]
Moment = Annotated[AwareDatetime, Field(strict=False)]
Id = Annotated[UUID, Field(strict=False)]


class LetterFilter(Strict):
    """Letters by what they say; all of it has to hold."""

    tenant: Text | None = None
    chain: Text | None = None
    step: Text | None = None
    pool: Text | None = None
    code: Text | None = None
    fingerprint: Text | None = None
    since: Moment | None = None
    until: Moment | None = None
    state: Literal["open", "resolved", "ignored", "any"] = "open"

    def wanted(self, caller: Caller) -> Wanted:
        """For this caller's eyes: its own tenant's, or with `admin` anybody's."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Wanted(
            **{name: given[name] for name in _SAME},
            tenant=tenant_of(caller, self.tenant),
            state=None if self.state == "any" else self.state,
        )


_SAME = ("chain", "step", "pool", "code", "fingerprint", "since", "until")


class LetterQuery(LetterFilter):
    """The query of a list."""

    limit: Annotated[int, Field(ge=1, le=200, strict=False)] = 50
    cursor: Text | None = None


class GroupQuery(LetterFilter):
    """The query of the groups."""

    limit: Annotated[int, Field(ge=1, le=1000, strict=False)] = 100


class ChosenFilter(LetterFilter):
    """A filter that acts; without any condition it must say `all`."""

    state: Literal["open", "ignored"] = "open"
    all: bool = False


class LetterChoice(Strict):
    """Letters by a filter, or by their own or their jobs' ids."""

    filter: ChosenFilter | None = None
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)] | None = None

    def chosen(self, caller: Caller) -> Chosen:
        """Problem unless it says which letters, in one of the two ways."""
        if (self.filter is None) == (self.ids is None):
            raise _wrong("", "write either filter or ids")
        if self.filter is None:
            return Chosen(Wanted(tenant=tenant_of(caller, None)), self.ids)
        conditions = self.filter.model_fields_set - {"all", "state"}
        if bool(conditions) == self.filter.all:
            raise _wrong("/filter", 'give conditions, or {"all": true} for every letter')
        return Chosen(self.filter.wanted(caller))


class ReplaySubmission(LetterChoice):
    """A replay to be: which letters, how fast, and what is to be different."""

    rate: float = RATE
    canary: int = 0
    stop_if_fail: float | None = None
    dry_run: bool = False
    edit: dict[str, Any] | None = None

    def asked(self, caller: Caller) -> Asked:
        """What the engine is asked for."""
        return Asked(
            self.chosen(caller),
            f"key of {caller.tenant}",
            tenant_of(caller, None),
            float(self.rate),
            self.canary,
            self.stop_if_fail,
            self.edit,
        )


def letter_choice(body: Any) -> LetterChoice:
    """Problem with every finding if the body does not fit."""
    return valid(LetterChoice, body, _FIELDS)


def replay_submission(body: Any) -> ReplaySubmission:
    """Problem with every finding if the body does not fit."""
    return valid(ReplaySubmission, body, _FIELDS)


def tenant_of(caller: Caller, asked: str | None) -> str | None:
    """Whose letters: None is everybody's. Problem if the key may not see them."""
    if "admin" in caller.scopes:
        return asked
    if asked not in (None, caller.tenant):
        raise Problem("missing_scope", "letters of another tenant need the scope 'admin'")
    return caller.tenant


_FIELDS = (*ReplaySubmission.model_fields, *ChosenFilter.model_fields)


def _wrong(pointer: str, detail: str) -> Problem:
    return Problem.of([{"pointer": pointer, "code": "invalid_input", "detail": detail}])
