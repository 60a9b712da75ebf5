"""How one visit of a worker to a step can end: every ending has a name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True)
class Done:
    """The step's result is committed."""


@dataclass(frozen=True)
class Skip:
    """Nothing to do here: claimed by another, moved, ending, or long finished."""

    reason: str = "nothing to do"


@dataclass(frozen=True)
class Wait:
    """Refused before the call (limit, breaker, pause, budget); no attempt was spent."""

    reason: str
    until: datetime


@dataclass(frozen=True)
class Retry:
    """The attempt failed in a way that passes; the ledger wakes the step again."""

    reason: str
    until: datetime


@dataclass(frozen=True)
class Failover:
    """The step goes on with the next model of its list, in that model's pool."""

    pool: str
    reason: str = ""


@dataclass(frozen=True)
class Dead:
    """The step has failed for good; `code` is one of the interface's error codes."""

    code: str
    message: str
    exception: str = ""


Outcome: TypeAlias = Done | Skip | Wait | Retry | Failover | Dead
