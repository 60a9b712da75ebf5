"""The breakers of one process while Redis is away: the same verbs, in memory."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llmgine_workers.ephemeral.breaker_store import (
    ANSWERED,
    UNREACHABLE,
    WINDOW_S,
    BreakerState,
)


@dataclass
class _Record:
    in_a_row: int = 0
    unreachable: int = 0
    openings: int = 0
    reopens_at: float | None = None
    probe: str | None = None
    probe_ends: float = 0.0
    ended: deque[tuple[float, bool]] = field(default_factory=deque)
    """(when, whether by the provider's fault) of the calls in the window."""


class LocalBreakers:
    """See `BreakerStore` for the verbs. `mirror` keeps it ready to take over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: defaultdict[tuple[str, str], _Record] = defaultdict(_Record)

    def mirror(self, provider: str, model: str, state: BreakerState) -> None:
        """Begin where the shared state was when it was last seen."""
        record = self._records[provider, model]
        record.in_a_row, record.unreachable = state.in_a_row, state.unreachable
        record.openings, record.reopens_at = state.openings, None
        if state.reopens_in_s is not None:
            record.reopens_at = self._clock() + state.reopens_in_s

    async def look(self, provider: str, model: str) -> BreakerState:
        """The state, unchanged."""
        return self._state(self._records[provider, model])

    async def report(
        self, provider: str, model: str, how: str, calls: int = 1
    ) -> BreakerState:
        """Count calls that ended, unless it is open."""
        record = self._records[provider, model]
        if record.reopens_at is not None:
            return self._state(record)
        record.ended.extend([(self._clock(), how != ANSWERED)] * calls)
        record.in_a_row = record.in_a_row + calls if how != ANSWERED else 0
        record.unreachable = record.unreachable + calls if how == UNREACHABLE else 0
        return self._state(record)

    async def open(
        self, provider: str, model: str, probe: str | None, back_off_s: float
    ) -> BreakerState:
        """Open it, or open it again because this probe failed."""
        record = self._records[provider, model]
        holds = probe is not None and record.probe == probe
        if record.reopens_at is not None and not holds:
            return self._state(record)
        self._records[provider, model] = record = _Record(
            openings=record.openings + 1, reopens_at=self._clock() + back_off_s
        )
        return self._state(record, mine=True)

    async def close(self, provider: str, model: str, probe: str) -> BreakerState:
        """Close it because this probe went well."""
        record = self._records[provider, model]
        held_by_another = record.probe not in (None, probe) and self._probing(record)
        if record.reopens_at is None or held_by_another:
            return self._state(record)
        self._records[provider, model] = record = _Record()
        return self._state(record, mine=True)

    async def lease(
        self, provider: str, model: str, probe: str, lease_s: float
    ) -> BreakerState:
        """Take the one probe of this process, if it is due and free."""
        record = self._records[provider, model]
        now = self._clock()
        due = record.reopens_at is not None and record.reopens_at <= now
        if not due or self._probing(record):
            return self._state(record)
        record.probe, record.probe_ends = probe, now + lease_s
        return self._state(record, mine=True)

    async def release(self, provider: str, model: str, probe: str) -> BreakerState:
        """Give the probe back undecided."""
        record = self._records[provider, model]
        if record.probe == probe:
            record.probe = None
        return self._state(record)

    async def shut(self, provider: str) -> dict[str, float]:
        """The provider's models that are open, and the seconds until a probe may go."""
        states = {
            model: self._state(record)
            for (name, model), record in self._records.items()
            if name == provider
        }
        return {
            model: max(0.0, state.reopens_in_s, state.probing_s)
            for model, state in states.items()
            if state.reopens_in_s is not None
        }

    def _probing(self, record: _Record) -> bool:
        return record.probe is not None and record.probe_ends > self._clock()

    def _state(self, record: _Record, *, mine: bool = False) -> BreakerState:
        now = self._clock()
        while record.ended and record.ended[0][0] <= now - WINDOW_S:
            record.ended.popleft()
        return BreakerState(
            *(len(record.ended), sum(fault for _, fault in record.ended)),
            *(record.in_a_row, record.unreachable, record.openings),
            reopens_in_s=None if record.reopens_at is None else record.reopens_at - now,
            probing_s=record.probe_ends - now if self._probing(record) else 0.0,
            mine=mine,
        )
