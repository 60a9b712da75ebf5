"""One verdict before every call: admitted, wait until then, or never."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from llmgine_workers import clock as wall_clock
from llmgine_workers.ephemeral.breaker_store import BreakerStore
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.pauses import Pauses
from llmgine_workers.ephemeral.windows import Windows
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import GateClosed, GateOpened, LimitRefused
from llmgine_workers.resilience.breaker import FAULTS, Breakers, Shut
from llmgine_workers.resilience.limits import Limiter, NoRoom, Reserved, rules_of
from llmgine_workers.resilience.pause import Gates
from llmgine_workers.resilience.retry import RETRY_AFTER_MAX_S
from llmgine_workers.settings import LimitSettings

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"
"""What `settle` is told beside the codes of failures."""
SPREAD_SHARE = 0.25
SPREAD_MIN_S = 0.05
SPREAD_MAX_S = 5.0
"""Everyone is sent away until the same moment and must not come back at the same."""


@dataclass(frozen=True)
class Admitted:
    """Make the call now; then `settle` it, or `refund` it if it was not made."""

    provider: str
    model: str
    reserved: Reserved
    probe: str | None


@dataclass(frozen=True)
class Wait:
    """Ask again at `until`; `reason` is a waiting reason, `detail` is for people."""

    reason: str
    detail: str
    until: datetime
    retry_after_s: float


@dataclass(frozen=True)
class Refused:
    """No waiting helps: `code` is one of the interface's."""

    code: str
    detail: str


Verdict = Admitted | Wait | Refused


class Admission:
    """Breaker, pause and limits of every provider, asked in this order.

    No method raises because Redis is away; `ask` then waits at most 0.2 s for it.
    """

    def __init__(
        self,
        ephemeral: Ephemeral,
        limits: Iterable[LimitSettings],
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.limiter = Limiter(Windows(ephemeral), rules_of(limits), clock=clock)
        self._breakers = Breakers(
            BreakerStore(ephemeral), self._breaker_changed, clock=clock, rng=rng
        )
        self._gates = Gates(Pauses(ephemeral), clock=clock)
        self._events = events
        self._rng = rng

    async def ask(self, provider: str, model: str) -> Verdict:
        """May a call of this model go now?"""
        paused_s = await self._gates.left_s(provider)
        if paused_s > 0:
            detail = f"{provider} asked for a pause"
            return self._wait("provider_pause", detail, paused_s)
        passed = await self._breakers.ask(provider)
        if isinstance(passed, Shut):
            detail = f"{provider} failed repeatedly; a probe will tell when it is back"
            return self._wait("breaker", detail, passed.retry_after_s)
        reserved = await self.limiter.reserve(provider)
        if isinstance(reserved, Reserved):
            return Admitted(provider, model, reserved, passed.probe)
        if passed.probe is not None:
            await self._breakers.release(provider, passed.probe)
        return await self._no_room(provider, reserved)

    async def settle(
        self, admitted: Admitted, outcome: str, *, retry_after_s: float | None = None
    ) -> None:
        """How the call ended: `succeeded`, `cancelled` (by us) or a failure's code.

        A 429 that says when to come back closes the gate for all workers.
        """
        provider, probe = admitted.provider, admitted.probe
        if outcome == CANCELLED:
            if probe is not None:
                await self._breakers.release(provider, probe)
            return
        if outcome == "provider_rate_limited" and retry_after_s:
            await self.pause(provider, retry_after_s)
        await self._breakers.report(provider, probe, fault=outcome in FAULTS)

    async def refund(self, admitted: Admitted) -> None:
        """The call was never made: its room and its probe are free again."""
        await self.limiter.refund(admitted.reserved)
        if admitted.probe is not None:
            await self._breakers.release(admitted.provider, admitted.probe)

    async def pause(self, provider: str, seconds: float) -> None:
        """Close the provider's gate for all workers, for at most 15 minutes."""
        seconds = min(seconds, RETRY_AFTER_MAX_S)
        await self._gates.pause(provider, seconds)
        await self._events.emit(GateClosed(provider, "provider_pause", seconds))

    async def room(self, provider: str, at_most: int) -> int:
        """How many steps are worth releasing now; reserves nothing.

        One while a breaker waits for its probe: somebody has to make it.
        """
        if await self._gates.left_s(provider) > 0:
            return 0
        open_for_s = await self._breakers.open_for_s(provider)
        if open_for_s is not None:
            return 0 if open_for_s > 0 else min(1, at_most)
        return await self.limiter.room(provider, at_most)

    async def is_broken(self, provider: str) -> bool:
        """Whether the provider's breaker is open, or trying to close."""
        return await self._breakers.open_for_s(provider) is not None

    async def _no_room(self, provider: str, found: NoRoom) -> Wait | Refused:
        await self._events.emit(LimitRefused(provider, found.detail, found.retry_after_s))
        if found.retry_after_s is None:
            return Refused("exceeds_limit", found.detail)
        return self._wait("limit", found.detail, found.retry_after_s)

    def _wait(self, reason: str, detail: str, seconds: float) -> Wait:
        spread = min(SPREAD_MAX_S, max(SPREAD_MIN_S, SPREAD_SHARE * seconds))
        seconds += self._rng() * spread
        until = wall_clock.now() + timedelta(seconds=seconds)
        return Wait(reason, detail, until, seconds)

    async def _breaker_changed(self, provider: str, seconds: float | None) -> None:
        if seconds is None:
            await self._events.emit(GateOpened(provider, "breaker"))
        else:
            await self._events.emit(GateClosed(provider, "breaker", seconds))
