"""Whose step goes next: deficit round robin over tenants, by weight, in tokens.

In each round a tenant's turn gives it a quantum of tokens times its weight, and its
oldest steps go as long as they fit into what it has; the rest it keeps for its next turn.
The rounds are not played but computed: which round a step goes in follows from what
stands before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class Head:
    """A held step near the front of its tenant's queue; tokens are upper bounds."""

    job: UUID
    path: str
    tenant: str
    priority: int
    model: str | None
    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        """What it weighs; at least 1."""
        return max(1, self.tokens_in + self.tokens_out)


class Gate(Protocol):
    """What the limits still admit, spent while candidates are gone through in order.

    `beside` are other pools, whose published steps will ask the same limits.
    """

    beside: Sequence[str]

    async def look(self, tenants: Sequence[str]) -> None:
        """Learn what there is for these tenants."""

    def take(self, head: Head) -> bool:
        """Whether there is room for this one; then it is subtracted."""


class Counted:
    """A gate that counts steps: so many in all, and fewer of the last class."""

    beside: Sequence[str] = ()

    def __init__(self, steps: int, batch: int | None = None) -> None:
        self._steps = steps
        self._batch = steps if batch is None else batch

    async def look(self, tenants: Sequence[str]) -> None:
        """All tenants alike."""

    def take(self, head: Head) -> bool:
        """Whether one more may go."""
        left = self._batch if head.priority == LAST_CLASS else self._steps
        if left <= 0:
            return False
        self._steps -= 1
        self._batch -= 1
        return True


LAST_CLASS = 2
"""`batch`: it never takes the last quarter of a limit."""


@dataclass(frozen=True)
class Queue:
    """One tenant's turn: its weight, what it has left, and its oldest steps.

    `is_all` says that nothing is behind them.
    """

    tenant: str
    weight: float
    left: float
    heads: Sequence[Head]
    is_all: bool


@dataclass(frozen=True)
class Turns:
    """Who goes, in order; what each tenant has left; whose turn was the last."""

    chosen: tuple[Head, ...]
    left: dict[str, float]
    last: str | None


@dataclass(frozen=True)
class _Candidate:
    round: int
    place: int
    depth: int
    head: Head


def take_turns(
    queues: Sequence[Queue], credit: int, admits: Callable[[Head], bool]
) -> Turns:
    """Choose up to `credit` steps from queues in the order of their turns.

    What is not admitted stays and is not charged. The quantum is the heaviest first step,
    so that a tenant of weight 1 sends at least one step in each of its turns.
    """
    quantum = max((queue.heads[0].tokens for queue in queues if queue.heads), default=1)
    ordered = sorted(
        (
            one
            for place, queue in enumerate(queues)
            for one in _dated(place, queue, quantum)
        ),
        key=lambda one: (one.round, one.place, one.depth),
    )
    chosen: list[Head] = []
    reached = (0, len(queues) - 1)
    for one in ordered:
        reached = (one.round, one.place)
        if admits(one.head):
            chosen.append(one.head)
            if len(chosen) >= credit:
                break
    else:
        reached = (max((one.round for one in ordered), default=0), len(queues) - 1)
    left = _left(queues, quantum, reached, chosen)
    last = queues[reached[1]].tenant if queues and reached[0] else None
    return Turns(tuple(chosen), left, last)


def _dated(place: int, queue: Queue, quantum: int) -> list[_Candidate]:
    """Each head with the round whose quantum pays for it and all before it."""
    found, before = [], 0
    for depth, head in enumerate(queue.heads):
        before += head.tokens
        missing = max(0.0, before - queue.left)
        turn = math.ceil(missing / (quantum * queue.weight))
        found.append(_Candidate(turn, place, depth, head))
    return found


def _left(
    queues: Sequence[Queue], quantum: int, reached: tuple[int, int], chosen: list[Head]
) -> dict[str, float]:
    """What each tenant keeps: nothing if its queue is empty, never much more than a
    quantum, or who is refused by a limit would save up for a flood of its own."""
    spent: dict[str, int] = {}
    gone: dict[str, int] = {}
    for head in chosen:
        spent[head.tenant] = spent.get(head.tenant, 0) + head.tokens
        gone[head.tenant] = gone.get(head.tenant, 0) + 1
    left = {}
    for place, queue in enumerate(queues):
        if queue.is_all and gone.get(queue.tenant, 0) == len(queue.heads):
            left[queue.tenant] = 0.0
            continue
        turns = reached[0] if place <= reached[1] else max(0, reached[0] - 1)
        given = min(turns, _dated(place, queue, quantum)[-1].round) if queue.heads else 0
        share = quantum * queue.weight
        kept = queue.left + given * share - spent.get(queue.tenant, 0)
        left[queue.tenant] = min(kept, max(share, float(quantum)))
    return left
