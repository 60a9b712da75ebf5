"""A breaker per provider: pybreaker decides, Redis remembers, one probe for all."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import uuid4

import pybreaker

from llmgine_workers.ephemeral.breaker_store import BreakerState
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.resilience.local_breaker import LocalBreakers

FAILURES_IN_A_ROW = 5
RESET_MIN_S = 15.0
RESET_MAX_S = 120.0
RESET_JITTER = 0.2
"""Up to so much longer, so that several breakers do not beat in time."""
PROBE_LEASE_S = 30.0
"""A probe that has not answered by then may be dead; another one may go."""
PROBE_LOOK_S = 1.0
"""While a probe is out, those who were refused look again this often."""
FRESH_S = 0.25
"""How long a process trusts the state it saw (rule H4)."""

FAULTS = frozenset(
    {
        "provider_unreachable",
        "provider_unavailable",
        "provider_overloaded",
        "provider_timeout",
        "provider_bad_response",
        "stream_cut",
    }
)
"""What speaks against the provider; a 4xx answer and our own cancels never do."""


@dataclass(frozen=True)
class Pass:
    """Make the call. `probe` is set if it is the one that decides."""

    probe: str | None = None


@dataclass(frozen=True)
class Shut:
    """Make no call for that many seconds."""

    retry_after_s: float


class Store(Protocol):
    """Where the states live; `BreakerStore` says what each verb does."""

    async def look(self, provider: str) -> BreakerState: ...  # noqa: D102
    async def fail(self, provider: str) -> BreakerState: ...  # noqa: D102
    async def succeed(self, provider: str) -> BreakerState: ...  # noqa: D102
    async def open(  # noqa: D102
        self, provider: str, probe: str | None, back_off_s: float
    ) -> BreakerState: ...
    async def close(self, provider: str, probe: str) -> BreakerState: ...  # noqa: D102
    async def lease(  # noqa: D102
        self, provider: str, probe: str, lease_s: float
    ) -> BreakerState: ...
    async def release(self, provider: str, probe: str) -> BreakerState: ...  # noqa: D102


OnChange = Callable[[str, float | None], Awaitable[None]]
"""Hears (provider, seconds until its probe), or None for the seconds: it was closed."""


class Breakers:
    """The breakers of all providers; nothing is locked while a call runs."""

    def __init__(
        self,
        shared: Store,
        on_change: OnChange,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._shared = shared
        self._local = LocalBreakers(clock)
        self._on_change = on_change
        self._clock = clock
        self._rng = rng
        self._seen: dict[str, tuple[float, BreakerState]] = {}

    async def ask(self, provider: str) -> Pass | Shut:
        """May a call go now? A probe that was granted must be reported or released."""
        state = await self._recent(provider)
        if state.reopens_in_s is None:
            return Pass()
        if state.reopens_in_s > 0:
            return Shut(state.reopens_in_s)
        probe = uuid4().hex
        state = await self._do(
            provider, lambda s: s.lease(provider, probe, PROBE_LEASE_S)
        )
        if state.mine:
            return Pass(probe)
        if state.reopens_in_s is None:
            return Pass()
        return Shut(max(state.reopens_in_s, min(state.probing_s, PROBE_LOOK_S), FRESH_S))

    async def report(self, provider: str, probe: str | None, *, fault: bool) -> None:
        """How a call that was let pass has ended."""
        if fault:
            state = await self._do(provider, lambda s: s.fail(provider))
        elif probe is not None:
            state = await self._do(provider, lambda s: s.look(provider))
        elif self._has_seen_failures(provider):
            state = await self._do(provider, lambda s: s.succeed(provider))
        else:
            return  # the common case costs nothing
        next_state = decide(state, is_probe=probe is not None, fault=fault)
        if next_state == pybreaker.STATE_OPEN:
            await self._open(provider, probe, state)
        elif next_state == pybreaker.STATE_CLOSED and probe is not None:
            await self._close(provider, probe)

    async def release(self, provider: str, probe: str) -> None:
        """The probe's call was not made, or we cancelled it: it decides nothing."""
        await self._do(provider, lambda s: s.release(provider, probe))

    async def open_for_s(self, provider: str) -> float | None:
        """Seconds until a probe may go (0: now), None while it is closed."""
        state = await self._recent(provider)
        if state.reopens_in_s is None:
            return None
        return max(0.0, state.reopens_in_s, state.probing_s)

    async def _open(self, provider: str, probe: str | None, state: BreakerState) -> None:
        seconds = reset_s(state.openings, self._rng)
        state = await self._do(provider, lambda s: s.open(provider, probe, seconds))
        if state.mine:
            await self._on_change(provider, seconds)

    async def _close(self, provider: str, probe: str) -> None:
        state = await self._do(provider, lambda s: s.close(provider, probe))
        if state.mine:
            await self._on_change(provider, None)

    async def _recent(self, provider: str) -> BreakerState:
        now = self._clock()
        if provider in self._seen:
            seen_at, state = self._seen[provider]
            if now - seen_at < FRESH_S:
                return state
            # Hundreds of steps ask at once: one looks, the others go by what was seen.
            self._seen[provider] = (now, state)
        return await self._do(provider, lambda s: s.look(provider))

    def _has_seen_failures(self, provider: str) -> bool:
        seen = self._seen.get(provider)
        return seen is not None and seen[1].failures > 0

    async def _do(
        self, provider: str, verb: Callable[[Store], Awaitable[BreakerState]]
    ) -> BreakerState:
        try:
            state = await verb(self._shared)
        except EphemeralDown:
            state = await verb(self._local)
        else:
            self._local.mirror(provider, state)
        self._seen[provider] = (self._clock(), state)
        return state


def reset_s(openings: int, rng: Callable[[], float]) -> float:
    """Seconds until the next probe, after so many openings before this one."""
    seconds = min(RESET_MAX_S, RESET_MIN_S * 2.0 ** min(openings, 10))
    return seconds * (1 + RESET_JITTER * rng())


def decide(state: BreakerState, *, is_probe: bool, fault: bool) -> str | None:
    """The state that pybreaker wants after a call that ended; None if it stays."""
    storage = Snapshot(state, is_probe=is_probe)
    before = storage.state
    if before == pybreaker.STATE_OPEN:
        return None  # the call began before it opened and tells nothing new
    breaker = pybreaker.CircuitBreaker(
        fail_max=FAILURES_IN_A_ROW, state_storage=storage, throw_new_error_on_trip=False
    )
    # The call itself is over: pybreaker's lock is never held while one runs.
    with suppress(_Fault), breaker.calling():
        if fault:
            raise _Fault
    return storage.state if storage.state != before else None


class _Fault(Exception):
    """What pybreaker is told of a call that was the provider's fault."""


class Snapshot(pybreaker.CircuitBreakerStorage):
    """One look at the shared state, for pybreaker to decide on.

    It keeps no counters: the store has counted this call already, atomically, and
    applies the state that pybreaker sets here.
    """

    def __init__(self, seen: BreakerState, *, is_probe: bool) -> None:
        super().__init__("snapshot")
        self._seen = seen
        self._successes = 0
        half_open = pybreaker.STATE_HALF_OPEN if is_probe else pybreaker.STATE_OPEN
        self._state: str = half_open if seen.is_open else pybreaker.STATE_CLOSED

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def counter(self) -> int:
        """Failures in a row, the one that is being reported included."""
        return self._seen.failures

    @property
    def success_counter(self) -> int:
        """Successes while half open."""
        return self._successes

    def increment_success_counter(self) -> None:
        """Count the probe's success."""
        self._successes += 1

    @property
    def opened_at(self) -> datetime | None:
        """Never asked for: whether a probe is due is the store's to say."""
        return None

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """The store stamps openings with its own clock."""
