"""The composition root: which rooms a process opens, and how they are wired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace

from llmgine_workers import tools
from llmgine_workers.broker import Broker, open_broker
from llmgine_workers.engine.hints import Hints
from llmgine_workers.engine.intake import Intake
from llmgine_workers.engine.planning import Models
from llmgine_workers.engine.pools import Pools
from llmgine_workers.engine.registry import Chains
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.signals import Signals
from llmgine_workers.ephemeral.streams import Streams
from llmgine_workers.events.emit import Events
from llmgine_workers.events.logs import LogLines
from llmgine_workers.events.metrics import Metrics
from llmgine_workers.events.stream import StreamWriter
from llmgine_workers.events.traces import Traces
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.resilience.rules import Rules
from llmgine_workers.settings import Settings

DRAIN_S = 6.0
"""A publish is confirmed or given up within 5 s."""


@dataclass(kw_only=True)
class Runtime:
    """What every process of ours has: the three stores, the chains, the events."""

    settings: Settings
    environ: Mapping[str, str]
    ledger: Ledger
    broker: Broker
    ephemeral: Ephemeral
    streams: Streams
    signals: Signals
    events: Events
    metrics: Metrics
    hints: Hints
    intake: Intake
    pools: Pools
    chains: Chains
    models: Models
    tools: tools.Tools
    rules: Rules
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def prefix(self) -> str:
        """What every queue, key and the schema begin with."""
        return self.settings.broker.prefix

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run beside everything else; kept from being collected until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def open_runtime(
    settings: Settings, environ: Mapping[str, str]
) -> AsyncIterator[Runtime]:
    """Open the stores, start the background work, close all in order."""
    prefix = settings.broker.prefix
    ledger = Ledger(settings.ledger.url, prefix)
    ephemeral = Ephemeral(settings.redis.url, prefix)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        stack.push_async_callback(ephemeral.close)
        broker = open_broker(settings.broker.url, prefix)
        stack.push_async_callback(broker.close)
        streams = Streams(ephemeral)
        stack.push_async_callback(streams.close)
        metrics = Metrics()
        rt = Runtime(
            settings=settings,
            environ=environ,
            ledger=ledger,
            broker=broker,
            ephemeral=ephemeral,
            streams=streams,
            signals=Signals(ephemeral),
            events=Events(
                [
                    StreamWriter(streams, keep_s=settings.redis.keep_streams),
                    LogLines(settings.telemetry.logs),
                    metrics,
                    Traces(trace.get_tracer_provider()),
                ]
            ),
            metrics=metrics,
            hints=Hints(broker, ledger, prefix),
            intake=Intake(ledger, settings.gateway.max_queued_per_tenant),
            pools=Pools(ledger),
            chains=Chains(ledger),
            models=Models(settings, frozenset(settings.enabled_providers(environ))),
            tools=tools.load_modules(settings.tools.modules),
            rules=Rules(settings.limits),
        )
        background = [
            asyncio.create_task(work) for work in (rt.hints.run(), rt.pools.run())
        ]
        stack.push_async_callback(rt.events.close)
        stack.push_async_callback(_cancel, background)
        stack.push_async_callback(_drain, rt)
        yield rt


async def _drain(rt: Runtime) -> None:
    """Give what was offered a moment to reach the broker; the ledger has it anyway."""
    with suppress(TimeoutError):
        await asyncio.wait_for(rt.hints.drain(), DRAIN_S)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
