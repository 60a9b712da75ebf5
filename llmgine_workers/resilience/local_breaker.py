"""The breakers of one process while Redis is away: the same verbs, in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from llmgine_workers.ephemeral.breaker_store import BreakerState


@dataclass
class _Record:
    failures: int = 0
    openings: int = 0
    reopens_at: float | None = None
    probe: str | None = None
    probe_ends: float = 0.0


class LocalBreakers:
    """See `BreakerStore` for the verbs. `mirror` keeps it ready to take over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: defaultdict[str, _Record] = defaultdict(_Record)

    def mirror(self, provider: str, state: BreakerState) -> None:
        """Begin where the shared state was when it was last seen."""
        reopens_at = None
        if state.reopens_in_s is not None:
            reopens_at = self._clock() + state.reopens_in_s
        self._records[provider] = _Record(state.failures, state.openings, reopens_at)

    async def look(self, provider: str) -> BreakerState:
        """The state, unchanged."""
        return self._state(self._records[provider])

    async def fail(self, provider: str) -> BreakerState:
        """Count one failure, unless it is open."""
        record = self._records[provider]
        if record.reopens_at is None:
            record.failures += 1
        return self._state(record)

    async def succeed(self, provider: str) -> BreakerState:
        """Forget the failures in a row."""
        record = self._records[provider]
        record.failures = 0
        return self._state(record)

    async def open(
        self, provider: str, probe: str | None, back_off_s: float
    ) -> BreakerState:
        """Open it, or open it again because this probe failed."""
        record = self._records[provider]
        if record.reopens_at is not None and not self._holds(record, probe):
            return self._state(record)
        self._records[provider] = record = _Record(
            openings=record.openings + 1, reopens_at=self._clock() + back_off_s
        )
        return self._state(record, mine=True)

    async def close(self, provider: str, probe: str) -> BreakerState:
        """Close it because this probe went well."""
        record = self._records[provider]
        held_by_another = record.probe not in (None, probe) and self._probing(record)
        if record.reopens_at is None or held_by_another:
            return self._state(record)
        self._records[provider] = record = _Record()
        return self._state(record, mine=True)

    async def lease(self, provider: str, probe: str, lease_s: float) -> BreakerState:
        """Take the one probe of this process, if it is due and free."""
        record = self._records[provider]
        now = self._clock()
        due = record.reopens_at is not None and record.reopens_at <= now
        if not due or self._probing(record):
            return self._state(record)
        record.probe, record.probe_ends = probe, now + lease_s
        return self._state(record, mine=True)

    async def release(self, provider: str, probe: str) -> BreakerState:
        """Give the probe back undecided."""
        record = self._records[provider]
        if record.probe == probe:
            record.probe = None
        return self._state(record)

    def _probing(self, record: _Record) -> bool:
        return record.probe is not None and record.probe_ends > self._clock()

    def _holds(self, record: _Record, probe: str | None) -> bool:
        return probe is not None and record.probe == probe

    def _state(self, record: _Record, *, mine: bool = False) -> BreakerState:
        now = self._clock()
        return BreakerState(
            record.failures,
            record.openings,
            None if record.reopens_at is None else record.reopens_at - now,
            record.probe_ends - now if self._probing(record) else 0.0,
            mine,
        )
