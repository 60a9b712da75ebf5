"""What a worker process has beside the rest: its pool, its slots, its calls in flight."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.broker import declare
from llmgine_workers.engine.finish import Finisher
from llmgine_workers.engine.heartbeat import Heartbeat
from llmgine_workers.engine.together import Together
from llmgine_workers.engine.visit import Presence
from llmgine_workers.errors import ConfigurationError
from llmgine_workers.events import facts
from llmgine_workers.events.exposed import exposed
from llmgine_workers.ledger import schema, steps, sweep, workers
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.records import Claim, Hinted, StepKey
from llmgine_workers.llm import Provider
from llmgine_workers.prices import Prices
from llmgine_workers.providers import open_providers
from llmgine_workers.resilience.admission import Admission
from llmgine_workers.runtime import Runtime, open_runtime
from llmgine_workers.settings import Settings

GOODBYE_S = 5.0
"""How long an absent ledger is waited for, only to say that this worker has left."""

ABSENT_BEATS = 2
"""A step the ledger thinks is here, and memory does not know, so often in a row."""


@dataclass(kw_only=True)
class WorkerRuntime(Runtime):
    """One incarnation of a worker."""

    pool: str
    slots: asyncio.Semaphore
    worker: UUID = field(default_factory=clock.uuid7)
    presence: Presence = field(default_factory=Presence)
    draining: bool = False
    providers: Mapping[str, Provider]
    admission: Admission
    prices: Prices
    _suspects: asyncio.Lock = field(default_factory=asyncio.Lock)
    _absent: Counter[tuple[StepKey, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.finisher = Finisher(self)
        self.together = Together(self.ledger)

    def quarantine(self, step: Hinted) -> AbstractAsyncContextManager[Any]:
        """A step that two processes died of runs alone of its kind."""
        suspect = step.crashes >= sweep.SUSPECT_CRASHES
        return self._suspects if suspect else nullcontext()

    def drain(self) -> None:
        """SIGTERM: no new calls; what runs past the grace is handed back."""
        self.draining = True
        self.spawn(self.events.emit(facts.WorkerDraining(self.worker, self.pool)))
        grace = self.settings.worker.grace
        asyncio.get_running_loop().call_later(
            grace, self.presence.stop_all, "grace is over"
        )

    async def hear_signals(self) -> None:
        """Cancel calls whose jobs are ending (row 15), as soon as Redis says so."""
        async for cancel in self.signals.listen():
            if cancel.paths is None:
                self.presence.stop_job(cancel.job, "job ending")
            for path in cancel.paths or ():
                self.presence.stop(StepKey(cancel.job, path), "job ending")

    def hear_pulse(self, pulse: workers.Pulse) -> None:
        """What the ledger says of us: our size, our ends, our ghosts, our own death."""
        self.admission.limiter.live_workers = max(1, pulse.live_workers)
        if pulse.dead:
            self.presence.stop_all("declared dead")
            self.spawn(self._be_reborn())
            return
        ghosts = self._ghosts(pulse.running)
        if ghosts:
            self.spawn(steps.give_back(self.ledger, ghosts, "cancelled"))
        for one in pulse.running:
            if one.job_ending:
                self.presence.stop(one.key, "job ending")

    def _ghosts(self, running: tuple[workers.Running, ...]) -> list[Claim]:
        """Row 13."""
        absent = [one for one in running if one.key not in self.presence]
        self._absent = Counter(
            {(one.key, one.fence): self._absent[one.key, one.fence] + 1 for one in absent}
        )
        return [
            Claim(key, fence, self.worker, 0)
            for (key, fence), beats in self._absent.items()
            if beats >= ABSENT_BEATS
        ]

    async def _be_reborn(self) -> None:
        if self.draining:
            return
        self.worker = clock.uuid7()
        await self._register()
        self.heartbeat.start(self.worker)

    async def _register(self) -> None:
        at = f"{socket.gethostname()}:{os.getpid()}"
        slots = self.settings.worker.slots
        await while_away(
            lambda: workers.register(self.ledger, self.worker, self.pool, slots, at)
        )
        await self.events.emit(facts.WorkerStarted(self.worker, self.pool))

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Registered and beating; at the end, gone in order."""
        self.heartbeat = Heartbeat(self.ledger, self.hear_pulse)
        await self._register()
        self.heartbeat.start(self.worker)
        listening = self.spawn(self.hear_signals())
        try:
            yield
        finally:
            listening.cancel()
            await self.heartbeat.stop()
            with suppress(TimeoutError):  # the scheduler will see its silence
                async with asyncio.timeout(GOODBYE_S):
                    await while_away(lambda: workers.stop(self.ledger, self.worker))


@asynccontextmanager
async def open_worker(
    settings: Settings, environ: Mapping[str, str], pool: str, slots: int
) -> AsyncIterator[WorkerRuntime]:
    """Check that the stores are as they must be, then open a worker of one pool."""
    settings = settings.model_copy(
        update={"worker": settings.worker.model_copy(update={"slots": slots})}
    )
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(open_runtime(settings, environ))
        await schema.verify(shared.ledger)
        await _verify_topology(settings, environ)
        mine = {
            name: provider
            for name, provider in settings.enabled_providers(environ).items()
            if name == pool
        }
        providers = open_providers(mine, environ)
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        rt = WorkerRuntime(
            **{one.name: getattr(shared, one.name) for one in fields(Runtime)},
            pool=pool,
            slots=asyncio.Semaphore(slots),
            providers=providers,
            admission=Admission(shared.ephemeral, settings.limits, shared.events),
            prices=Prices(settings.prices),
        )
        stack.enter_context(exposed(rt.metrics, settings.telemetry.metrics))
        await stack.enter_async_context(rt.alive())
        yield rt


async def _verify_topology(settings: Settings, environ: Mapping[str, str]) -> None:
    found = await declare.verify(
        settings.broker.url, settings.broker.prefix, settings.pools(environ)
    )
    if found:
        raise ConfigurationError(
            "; ".join(f"{one.name}: {one.found}; run: {one.command}" for one in found)
        )
