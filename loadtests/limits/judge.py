"""What the simulator saw of limits: the worst window, and how much of it was used."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.witness import Call

WINDOW_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One rule, as the provider saw it kept."""

    name: str
    limit: int
    worst_window: float
    """The most that any 60 s by start time used, as a share of the limit."""
    use: float
    """What was used between the first minute's end and the last call, as a share."""

    def __str__(self) -> str:
        return (
            f"{self.name}: worst window {self.worst_window:.1%}, used {self.use:.1%} "
            f"of {self.limit}"
        )


def judge(name: str, limit: int, calls: Sequence[Call], ends_at: float) -> Seen:
    """Hold a rule on tokens against the calls that were answered."""
    taken = sorted((c["started_at"], tokens_of(c)) for c in calls)
    begun = taken[0][0] + WINDOW_S
    steady = sum(units for at, units in taken if begun <= at < ends_at)
    minutes = max(1e-9, (ends_at - begun) / WINDOW_S)
    worst = worst_window(taken) / limit
    return Seen(name, limit, worst, steady / (limit * minutes))


def worst_window(taken: Sequence[tuple[float, int]]) -> int:
    """The most units that any 60 s saw, of sorted (seconds, units)."""
    moments = [moment for moment, _ in taken]
    sums = [0]
    for _, units in taken:
        sums.append(sums[-1] + units)
    return max(
        sums[bisect_left(moments, moment + WINDOW_S)] - sums[first]
        for first, moment in enumerate(moments)
    )


def tokens_of(call: Call) -> int:
    """What the provider counted."""
    return int(call["input_tokens"] + call["output_tokens"])
