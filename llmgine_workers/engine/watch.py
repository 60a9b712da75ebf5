"""Who is dead: judged by beats that this scheduler saw, on its own monotonic clock.

Never by timestamps: after an outage of the ledger every beat is old, and nobody died.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from llmgine_workers.ledger.workers import Observed

SILENT_S = 15.0
"""Seconds of answered polls without a beat."""

LEAST_POLLS = 5


@dataclass
class _Seen:
    beat_no: int
    since: float
    polls: int = 0


class Watch:
    """One scheduler's observation; any failed poll begins it anew."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._server: str | None = None
        self._seen: dict[UUID, _Seen] = {}

    def forget(self) -> None:
        """A poll failed, or was late: what was silence before may have been ours."""
        self._seen.clear()

    def poll(
        self, server: str, observed: Sequence[Observed], at: float
    ) -> list[Observed]:
        """One answered poll at a monotonic time (seconds): who is dead by now."""
        if server != self._server:
            self._server = server
            self.forget()
        self._seen = {one.id: self._look(one, at) for one in observed}
        return [one for one in observed if self._is_silent(self._seen[one.id], at)]

    def _look(self, one: Observed, at: float) -> _Seen:
        seen = self._seen.get(one.id)
        if seen is None or seen.beat_no != one.beat_no:
            return _Seen(one.beat_no, at)
        seen.polls += 1
        return seen

    def _is_silent(self, seen: _Seen, at: float) -> bool:
        return at - seen.since >= self._silent_s and seen.polls >= LEAST_POLLS
