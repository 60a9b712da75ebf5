"""One verdict before every call: admitted, wait until then, or never."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from llmgine_workers import clock as wall_clock
from llmgine_workers.ephemeral.breaker_store import BreakerStore
from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown
from llmgine_workers.ephemeral.gate import Asked, Closed, Gate
from llmgine_workers.ephemeral.pauses import Pauses
from llmgine_workers.ephemeral.windows import Windows
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import (
    GateClosed,
    GateOpened,
    LimitOvershot,
    LimitRefused,
    LimitsLocal,
    LimitsShared,
)
from llmgine_workers.llm import Quota
from llmgine_workers.resilience.breaker import PROBE_LEASE_S, Breakers, Shut, kind_of
from llmgine_workers.resilience.limits import Limiter, Reserved
from llmgine_workers.resilience.local_share import NoRoom
from llmgine_workers.resilience.pause import Gates
from llmgine_workers.resilience.retry import RETRY_AFTER_MAX_S
from llmgine_workers.resilience.rooms import Rooms, calls_that_fit
from llmgine_workers.resilience.rules import Demand, Rules, Units
from llmgine_workers.settings import LimitSettings

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"
"""What `settle` is told beside the codes of failures."""
PAUSING = frozenset(
    {"provider_rate_limited", "provider_overloaded", "provider_unavailable"}
)
"""429, 529 and 503: with a time to come back they close the gate for everyone."""
SPREAD_SHARE = 0.25
SPREAD_MIN_S = 0.05
SPREAD_MAX_S = 5.0
"""Everyone is sent away until the same moment and must not come back at the same."""
PROVIDERS_WAIT = {
    "provider_pause": "{provider} asked for a pause",
    "breaker": "{model} failed repeatedly; a probe will tell when it is back",
}


@dataclass
class Admitted:
    """Make the call: `begin` it, then `settle` it, or `refund` it if it was not made."""

    demand: Demand
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
    """Pause, breaker, limits and slot of every call: one question, one verdict.

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
        self.rules = Rules(limits)
        self.limiter = Limiter(Gate(ephemeral), Windows(ephemeral), clock=clock)
        self._breakers = Breakers(
            BreakerStore(ephemeral), self._breaker_changed, clock=clock, rng=rng
        )
        self._pauses = Gates(Pauses(ephemeral), clock=clock)
        self._events = events
        self._rng = rng
        self._is_local = False

    async def ask(self, demand: Demand, lease_s: float) -> Verdict:
        """May a call go now? It will have ended after `lease_s` seconds."""
        asked = self._asked(demand, lease_s)
        try:
            found = await self.limiter.reserve(asked, probe_lease_s=PROBE_LEASE_S)
        except EphemeralDown as down:
            await self._now_local(str(down))
            return await self._ask_here(asked, demand)
        if self._is_local:
            self._is_local = False
            await self._events.emit(LimitsShared())
        if isinstance(found, Reserved):
            is_probe = found.shared is not None and found.shared.is_probe
            return Admitted(demand, found, asked.probe if is_probe else None)
        if isinstance(found, NoRoom):
            return await self._no_room(demand, found)
        return self._closed(demand, found)

    async def begin(self, admitted: Admitted) -> None:
        """Right before the call: one that begins late is counted when it begins."""
        admitted.reserved = await self.limiter.begin(admitted.reserved)

    async def settle(
        self,
        admitted: Admitted,
        outcome: str,
        *,
        used: Units | None = None,
        quota: Quota | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """How the call ended: `succeeded`, `cancelled` (by us) or a failure's code.

        `used` is its account, None if nobody gave one: then the upper bound stands.
        `quota` is what the provider says is left. A 429, 503 or 529 that says when to
        come back closes the gate for all workers.
        """
        provider, reserved = admitted.demand.provider, admitted.reserved
        rules = [charge.rule for charge in reserved.charges]
        theirs = self.rules.told(rules, quota) if quota else None
        for rule, excess in await self.limiter.settle(reserved, used, theirs):
            await self._events.emit(LimitOvershot(provider, rule.name, excess))
        model = admitted.demand.model.removeprefix(f"{provider}/")
        if outcome != CANCELLED:
            if outcome in PAUSING and retry_after_s:
                await self.pause(provider, retry_after_s)
            how = kind_of(outcome)
            await self._breakers.report(provider, model, admitted.probe, how)
        elif admitted.probe is not None:
            await self._breakers.release(provider, model, admitted.probe)

    async def refund(self, admitted: Admitted) -> None:
        """The call was never made: its room and its probe are free again."""
        provider = admitted.demand.provider
        await self.limiter.refund(admitted.reserved)
        if admitted.probe is not None:
            model = admitted.demand.model.removeprefix(f"{provider}/")
            await self._breakers.release(provider, model, admitted.probe)

    async def pause(self, provider: str, seconds: float) -> None:
        """Close the provider's gate for all workers, for at most 15 minutes."""
        seconds = min(seconds, RETRY_AFTER_MAX_S)
        await self._pauses.pause(provider, seconds)
        await self._events.emit(GateClosed(provider, "provider_pause", seconds))

    async def room(self, provider: str, at_most: int) -> int:
        """How many calls of a usual size are worth releasing now; reserves nothing."""
        if await self._pauses.left_s(provider) > 0:
            return 0
        left = await self.limiter.left(self.rules.shared(provider))
        return calls_that_fit(left, at_most)

    async def shut(self, provider: str) -> dict[str, float]:
        """The models (`provider/model`) with an open breaker, and seconds to a probe."""
        found = await self._breakers.shut(provider)
        return {f"{provider}/{model}": seconds for model, seconds in found.items()}

    async def rooms(self, provider: str, tenants: Collection[str]) -> Rooms:
        """What every limit has left for calls of a provider by these tenants.

        A copy to be spent in thought; nothing is reserved.
        """
        is_shut = await self._pauses.left_s(provider) > 0
        shut = await self.shut(provider)
        left = await self.limiter.left(self.rules.of_provider(provider, tenants))
        return Rooms(self.rules, left, shut, is_shut)

    def _asked(self, demand: Demand, lease_s: float) -> Asked:
        token = uuid4().hex
        return Asked(
            provider=demand.provider,
            model=demand.model.removeprefix(f"{demand.provider}/"),
            call=token,
            step=demand.step,
            probe=token,
            lease_s=lease_s,
            charges=self.rules.charges(demand),
        )

    async def _ask_here(self, asked: Asked, demand: Demand) -> Verdict:
        """The same verdict by what this process knows itself, while Redis is away."""
        paused_s = self._pauses.left_here_s(asked.provider)
        if paused_s > 0:
            return self._closed(demand, Closed("provider_pause", paused_s))
        passed = await self._breakers.ask_here(asked.provider, asked.model)
        if isinstance(passed, Shut):
            return self._closed(demand, Closed("breaker", passed.retry_after_s))
        found = self.limiter.reserve_here(asked)
        if isinstance(found, Reserved):
            return Admitted(demand, found, passed.probe)
        if passed.probe is not None:
            await self._breakers.release(asked.provider, asked.model, passed.probe)
        return await self._no_room(demand, found)

    async def _now_local(self, reason: str) -> None:
        if not self._is_local:
            self._is_local = True
            await self._events.emit(LimitsLocal(reason))

    async def _no_room(self, demand: Demand, found: NoRoom) -> Wait | Refused:
        refused = LimitRefused(demand.provider, found.detail, found.retry_after_s)
        await self._events.emit(refused)
        if found.retry_after_s is None:
            return Refused("exceeds_limit", found.detail)
        return self._wait("limit", found.detail, found.retry_after_s)

    def _closed(self, demand: Demand, closed: Closed) -> Wait:
        provider, seconds = demand.provider, closed.seconds
        if closed.reason == "breaker":
            model = demand.model.removeprefix(f"{provider}/")
            self._breakers.seen_open(provider, model, seconds)
        else:
            self._pauses.seen(provider, seconds)
        detail = PROVIDERS_WAIT[closed.reason]
        detail = detail.format(provider=provider, model=demand.model)
        return self._wait(closed.reason, detail, seconds)

    def _wait(self, reason: str, detail: str, seconds: float) -> Wait:
        spread = min(SPREAD_MAX_S, max(SPREAD_MIN_S, SPREAD_SHARE * seconds))
        seconds += self._rng() * spread
        until = wall_clock.now() + timedelta(seconds=seconds)
        return Wait(reason, detail, until, seconds)

    async def _breaker_changed(self, model: str, seconds: float | None) -> None:
        if seconds is None:
            await self._events.emit(GateOpened(model, "breaker"))
        else:
            await self._events.emit(GateClosed(model, "breaker", seconds))
