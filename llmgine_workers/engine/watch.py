"""Who is dead: judged by beats that this scheduler saw, on its own monotonic clock.

Never by timestamps: after an outage of the ledger every beat is old, and nobody died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from llmgine_workers.ledger.workers import Observed

SILENT_S = 15.0
"""Seconds of answered polls without a beat."""

LEAST_POLLS = 5
"""In this many parts at least: a longer gap between two polls was a silence of ours."""


@dataclass(frozen=True)
class _Seen:
    beat_no: int
    since: float


class Watch:
    """One scheduler's observation; a poll that failed or came late begins it anew."""

    def __init__(
        self,
        silent_s: float = SILENT_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._polled_at = clock()
        self._server: str | None = None
        self._seen: dict[UUID, _Seen] = {}

    def forget(self) -> None:
        """A poll failed: what was silence before may have been ours."""
        self._seen.clear()

    def poll(self, server: str, observed: Sequence[Observed]) -> list[Observed]:
        """One answered poll of that server (its start time): who is dead by now."""
        before, at = self._polled_at, self._clock()
        self._polled_at = at
        if server != self._server or at - before > self._silent_s / LEAST_POLLS:
            self._server = server
            self.forget()
        self._seen = {one.id: self._look(one, at) for one in observed}
        return [
            one for one in observed if at - self._seen[one.id].since >= self._silent_s
        ]

    def _look(self, one: Observed, at: float) -> _Seen:
        seen = self._seen.get(one.id)
        return seen if seen and seen.beat_no == one.beat_no else _Seen(one.beat_no, at)
