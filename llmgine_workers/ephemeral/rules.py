"""What a limit counts, where, and how much: the vocabulary of the shared counters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

COUNTERS_PER_WINDOW = 120
"""With those of the slack and a few notes they fit in one 128-entry listpack: 2 KB."""
SLACK_S = 1.0
"""Calls start a little after they were admitted; so much later is still no overshoot."""
SLACK_SHARE = 0.02
"""... but never more of a window than this, so that short windows stay usable."""


@dataclass(frozen=True)
class Window:
    """At most `limit` units in any `window_s` seconds. `name` is for people.

    `bucket` tells its counters from others' and must not hold the limit, so that
    workers with an older setting count in the same place. `unit` is `requests`,
    `tokens`, `input_tokens` or `output_tokens`. `learned`: a charge is what calls of
    this rule used of their upper bounds lately, with a margin. `is_of_provider`: it
    bounds all calls of a provider or model, as the provider's own limits do.
    """

    name: str
    bucket: str
    limit: int
    window_s: float
    unit: str = "requests"
    learned: bool = False
    is_of_provider: bool = False

    @property
    def slot_ms(self) -> int:
        """Milliseconds that one counter stands for."""
        return math.ceil(self.window_s * 1000 / COUNTERS_PER_WINDOW)

    @property
    def slots(self) -> int:
        """Counters that are summed.

        An interval of the window's length and its slack touches at most so many, so
        a sum within the limit means that no such interval was overshot.
        """
        return math.ceil((self.window_s + self.slack_s) * 1000 / self.slot_ms) + 1

    @property
    def slack_s(self) -> float:
        """A call that begins so long after it was counted is still no overshoot."""
        return min(SLACK_S, SLACK_SHARE * self.window_s)


@dataclass(frozen=True)
class InFlight:
    """At most `limit` calls at once: each holds a lease until it ends or is overdue."""

    name: str
    bucket: str
    limit: int


Rule: TypeAlias = Window | InFlight


@dataclass(frozen=True)
class Charge:
    """So many units of a rule: 1 request, 1,200 tokens, 1 call in flight."""

    rule: Rule
    amount: int = 1


@dataclass(frozen=True)
class Usage:
    """Units used some seconds ago, to be counted where they belong."""

    rule: Window
    amount: int
    age_s: float


@dataclass(frozen=True)
class Lease:
    """A call in flight and the seconds it may still take."""

    rule: InFlight
    call: str
    left_s: float
