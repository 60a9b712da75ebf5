"""One worker's share of a limit while Redis is away: the same window, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmgine_workers.ephemeral.rules import Window

LOCAL_SHARE = 0.7
"""Of the limit, over all workers together: they cannot see each other (rule H3)."""


class LocalWindow:
    """What this process used of one rule, by its own monotonic clock (seconds)."""

    def __init__(self, rule: Window) -> None:
        self._rule = rule
        self._slot_s = rule.slot_ms / 1000
        self._used: dict[int, int] = {}

    def add(self, amount: int, now: float) -> int:
        """Count; answers the slot, for `take_back`."""
        slot = int(now / self._slot_s)
        self._used[slot] = self._used.get(slot, 0) + amount
        return slot

    def take_back(self, slot: int, amount: int) -> None:
        """Uncount what was counted in that slot."""
        left = self._used.get(slot, 0) - amount
        if left > 0:
            self._used[slot] = left
        else:
            self._used.pop(slot, None)

    def absorb(self, other: LocalWindow) -> None:
        """Count all that the other one of the same rule counted."""
        for slot, used in other._used.items():
            self._used[slot] = self._used.get(slot, 0) + used

    def wait_s(self, amount: int, workers: int, now: float) -> float | None:
        """Seconds until this worker's share has room: 0 now, None never."""
        limit, slots = self._share(workers)
        slot = int(now / self._slot_s)
        kept = [(s, used) for s, used in self._recent(now, workers) if s > slot - slots]
        excess = sum(used for _, used in kept) + amount - limit
        if excess <= 0:
            return 0.0
        for s, used in kept:
            excess -= used
            if excess <= 0:
                return (s + slots) * self._slot_s - now
        return None

    def share(self, workers: int) -> int:
        """Units per window for this worker (at least 1, in a window made longer)."""
        return self._share(workers)[0]

    def ages(self, now: float) -> Iterator[tuple[float, int]]:
        """What was used, as (seconds ago, units)."""
        for slot, used in self._recent(now, 1):
            yield max(0.0, now - (slot + 0.5) * self._slot_s), used

    def _share(self, workers: int) -> tuple[int, int]:
        share = self._rule.limit * LOCAL_SHARE / max(1, workers)
        if share >= 1:
            return int(share), self._rule.slots
        # Less than one call per window is one call per longer window, not none.
        return 1, math.ceil(self._rule.slots / share)

    def _recent(self, now: float, workers: int) -> list[tuple[int, int]]:
        oldest = int(now / self._slot_s) - self._share(workers)[1]
        for slot in [slot for slot in self._used if slot <= oldest]:
            del self._used[slot]
        return sorted(self._used.items())
