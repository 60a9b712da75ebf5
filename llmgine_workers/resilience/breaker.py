"""A breaker per model: pybreaker decides, Redis remembers, one probe for all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import uuid4

import pybreaker

from llmgine_workers.ephemeral.breaker_store import (
    ANSWERED,
    FAULT,
    UNREACHABLE,
    BreakerState,
)
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.resilience.local_breaker import LocalBreakers

FAULTS_IN_A_ROW = 20
UNREACHABLE_IN_A_ROW = 5
RATIO_CALLS = 20
RATIO = 0.4
"""It opens at two fifths of at least 20 calls in 10 s, or so many in a row (rule H4).
At a half, a provider that fails every other call would be found out within 40 calls
three times in four only; at this it is nineteen times in twenty."""
RESET_MIN_S = 5.0
RESET_MAX_S = 15.0
"""A provider that is back is called again within 20 s, however long it was away."""
RESET_JITTER = 0.2
"""Up to so much longer, so that several breakers do not beat in time."""
PROBE_LEASE_S = 30.0
"""A probe that has not answered by then may be dead; another one may go."""
PROBE_LOOK_S = 1.0
"""While a probe is out, those who were refused look again this often."""

ANSWERS_EVERY_S = 0.05
"""Answers decide nothing: they are counted together so often, and before each fault."""

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

    async def look(self, provider: str, model: str) -> BreakerState: ...  # noqa: D102
    async def report(  # noqa: D102
        self, provider: str, model: str, how: str, calls: int = 1
    ) -> BreakerState: ...
    async def open(  # noqa: D102
        self, provider: str, model: str, probe: str | None, back_off_s: float
    ) -> BreakerState: ...
    async def close(  # noqa: D102
        self, provider: str, model: str, probe: str
    ) -> BreakerState: ...
    async def lease(  # noqa: D102
        self, provider: str, model: str, probe: str, lease_s: float
    ) -> BreakerState: ...
    async def release(  # noqa: D102
        self, provider: str, model: str, probe: str
    ) -> BreakerState: ...
    async def shut(self, provider: str) -> dict[str, float]: ...  # noqa: D102


OnChange = Callable[[str, float | None], Awaitable[None]]
"""Hears (provider/model, seconds until its probe); None for them: it was closed."""

Answer = TypeVar("Answer")


class Breakers:
    """The breakers of all models; nothing is locked while a call runs.

    The shared ones are asked by the gate that admits calls (`ephemeral/gate.py`); what
    is asked here is this process's own state, for as long as Redis is away.
    """

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
        self._rng = rng
        self._answers: Counter[tuple[str, str]] = Counter()
        self._counting: asyncio.Task[None] | None = None

    async def ask_here(self, provider: str, model: str) -> Pass | Shut:
        """May a call go now, by what this process knows itself?

        A probe that was granted must be reported or released.
        """
        probe = uuid4().hex
        state = await self._local.lease(provider, model, probe, PROBE_LEASE_S)
        if state.mine:
            return Pass(probe)
        if state.reopens_in_s is None:
            return Pass()
        return Shut(max(state.reopens_in_s, min(state.probing_s, PROBE_LOOK_S)))

    def seen_open(self, provider: str, model: str, seconds: float) -> None:
        """The gate found it open: so it is here, should Redis go away now."""
        state = BreakerState(openings=1, reopens_in_s=seconds)
        self._local.mirror(provider, model, state)

    async def report(
        self, provider: str, model: str, probe: str | None, how: str
    ) -> None:
        """How a call that was let pass has ended: see `ephemeral/breaker_store.py`."""
        if how == ANSWERED and probe is None:
            self._answers[provider, model] += 1
            if self._counting is None or self._counting.done():
                self._counting = asyncio.create_task(self._count_soon())
            return
        await self._count_answers(provider, model)  # they came before
        state = await self._do(provider, model, lambda s: s.report(provider, model, how))
        fault = how != ANSWERED
        next_state = decide(state, is_probe=probe is not None, fault=fault)
        if next_state == pybreaker.STATE_OPEN:
            await self._open(provider, model, probe, state)
        elif next_state == pybreaker.STATE_CLOSED and probe is not None:
            await self._close(provider, model, probe)

    async def release(self, provider: str, model: str, probe: str) -> None:
        """The probe's call was not made, or we cancelled it: it decides nothing."""
        await self._do(provider, model, lambda s: s.release(provider, model, probe))

    async def shut(self, provider: str) -> dict[str, float]:
        """The open models of a provider, and the seconds until a probe may go."""
        return await self._either(lambda store: store.shut(provider))

    async def _count_soon(self) -> None:
        await asyncio.sleep(ANSWERS_EVERY_S)
        for provider, model in list(self._answers):
            await self._count_answers(provider, model)

    async def _count_answers(self, provider: str, model: str) -> None:
        calls = self._answers.pop((provider, model), 0)
        if calls:
            await self._do(
                provider, model, lambda s: s.report(provider, model, ANSWERED, calls)
            )

    async def _open(
        self, provider: str, model: str, probe: str | None, state: BreakerState
    ) -> None:
        seconds = reset_s(state.openings, self._rng)
        state = await self._do(
            provider, model, lambda s: s.open(provider, model, probe, seconds)
        )
        if state.mine:
            await self._on_change(f"{provider}/{model}", seconds)

    async def _close(self, provider: str, model: str, probe: str) -> None:
        state = await self._do(provider, model, lambda s: s.close(provider, model, probe))
        if state.mine:
            await self._on_change(f"{provider}/{model}", None)

    async def _do(
        self,
        provider: str,
        model: str,
        verb: Callable[[Store], Awaitable[BreakerState]],
    ) -> BreakerState:
        try:
            state = await verb(self._shared)
        except EphemeralDown:
            return await verb(self._local)
        self._local.mirror(provider, model, state)
        return state

    async def _either(self, verb: Callable[[Store], Awaitable[Answer]]) -> Answer:
        try:
            return await verb(self._shared)
        except EphemeralDown:
            return await verb(self._local)


def kind_of(outcome: str) -> str:
    """What an outcome's code tells of the provider."""
    if outcome == "provider_unreachable":
        return UNREACHABLE
    return FAULT if outcome in FAULTS else ANSWERED


def reset_s(openings: int, rng: Callable[[], float]) -> float:
    """Seconds until the next probe, after so many openings before this one."""
    seconds = min(RESET_MAX_S, RESET_MIN_S * (openings + 1))
    return seconds * (1 + RESET_JITTER * rng())


def is_failing(state: BreakerState) -> bool:
    """Whether the counts speak against the provider."""
    mostly = state.calls >= RATIO_CALLS and state.faults >= RATIO * state.calls
    in_a_row = state.in_a_row >= FAULTS_IN_A_ROW
    return mostly or in_a_row or state.unreachable >= UNREACHABLE_IN_A_ROW


def decide(state: BreakerState, *, is_probe: bool, fault: bool) -> str | None:
    """The state that pybreaker wants after a call that ended; None if it stays."""
    storage = Snapshot(state, is_probe=is_probe)
    before = storage.state
    if before == pybreaker.STATE_OPEN:
        return None  # the call began before it opened and tells nothing new
    breaker = pybreaker.CircuitBreaker(
        fail_max=_FAILING, state_storage=storage, throw_new_error_on_trip=False
    )
    # The call itself is over: pybreaker's lock is never held while one runs.
    with suppress(_Fault), breaker.calling():
        if fault:
            raise _Fault
    return storage.state if storage.state != before else None


_FAILING = 1
"""What pybreaker compares the counter to, which is 1 if the provider is failing."""


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
        """Whether the provider is failing, with the call that is being reported."""
        return _FAILING if is_failing(self._seen) else 0

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
