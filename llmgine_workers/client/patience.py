"""How long to pause before the next try, and when to give up."""

from __future__ import annotations

import random
from time import monotonic

from llmgine_workers.client.errors import Unavailable

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Pauses double from the first to the longest, each cut by up to a half at random."""

_RETRIED = frozenset({None, 502, 503, 504})
_jitter = random.SystemRandom()  # many clients seed the global one alike


class Patience:
    """Bears with a gateway that is away, for at most that long at a stretch."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._away_since: float | None = None
        self._tries = 0

    def answered(self) -> None:
        """The gateway is there."""
        self._away_since = None

    def progressed(self) -> None:
        """It is there and there is news, so that the next pause is short again."""
        self._away_since, self._tries = None, 0

    def back_off_s(self) -> float:
        """The pause before the next try."""
        doubled = FIRST_PAUSE_S * 2.0 ** min(self._tries, 10)
        self._tries += 1
        return _jitter.uniform(0.5, 1) * min(LONGEST_PAUSE_S, doubled)

    def bear(self, trouble: Unavailable) -> float:
        """The pause before the next try; raises the trouble if there is to be none."""
        if not _may_pass(trouble):
            raise trouble
        now = monotonic()
        if self._away_since is None:
            self._away_since = now
        pause_s = (trouble.retry_after_s or 0.0) + self.back_off_s()
        if now + pause_s - self._away_since > self._limit_s:
            raise trouble
        return pause_s


def _may_pass(trouble: Unavailable) -> bool:
    if trouble.status == 429:
        return trouble.retry_after_s is not None
    return trouble.status in _RETRIED
