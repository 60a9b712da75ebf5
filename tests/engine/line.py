"""A gateway's and a worker's runtime around stand-ins, on a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from llmgine_workers.engine.hints import Hints
from llmgine_workers.engine.intake import Intake
from llmgine_workers.engine.outcome import Outcome
from llmgine_workers.engine.planning import Models
from llmgine_workers.engine.pools import Pools
from llmgine_workers.engine.registry import Chains
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.submit import JobRequest, Options, submit
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.signals import Signals
from llmgine_workers.ephemeral.streams import Streams
from llmgine_workers.events.emit import Events
from llmgine_workers.events.metrics import Metrics
from llmgine_workers.ledger import release, workers
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.records import StepKey
from llmgine_workers.prices import Prices
from llmgine_workers.resilience.admission import Admission
from llmgine_workers.resilience.rules import Rules
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import Settings
from llmgine_workers.tools import load_modules
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.stand_ins import Ear, MemoryBroker, StandIn
from tests.ledger.rows import Place, pass_time

MODEL = "openai/test-model"
ENABLED = frozenset({"openai", "anthropic"})
SETTINGS: dict[str, Any] = {
    "providers": {"openai": {"wire": "openai"}, "anthropic": {"wire": "anthropic"}},
    "prices": {"*/test-model": {"input": 1.0, "output": 2.0}},
    "worker": {"grace": 30.0},
}


def llm(name: str, prompt: str = "Say something.", **more: Any) -> dict[str, Any]:
    """A step that calls the test's model; `more` are keys of the step."""
    options = {k: more.pop(k) for k in ("schema", "max_tokens") if k in more}
    return {"name": name, "llm": {"model": MODEL, "prompt": prompt, **options}, **more}


def chain(*steps: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A chain of these steps, one after the other."""
    return {"name": f"c{uuid4().hex[:8]}", "steps": list(steps), **more}


def parallel(name: str, *steps: Mapping[str, Any]) -> dict[str, Any]:
    """A step of branches, each named like its only step."""
    return {"name": name, "parallel": {step["name"]: [step] for step in steps}}


@dataclass
class Line:
    """One installation without processes: submit to it, hint at steps, look inside."""

    ledger: Ledger
    ephemeral: Ephemeral
    prices: Prices
    settings: Settings
    broker: MemoryBroker
    provider: StandIn = field(default_factory=StandIn)
    ear: Ear = field(default_factory=Ear)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.place = Place(self.ledger)
        self.rt = Runtime(**self._rooms(self.ledger))

    async def submit(self, what: Mapping[str, Any], **options: Any) -> UUID:
        """A new job of a chain, whose steps are held in the ledger."""
        request = JobRequest(chain=what, options=Options(**options))
        return (await submit(self.rt, f"t{uuid4().hex[:8]}", request)).job

    async def submit_tool(self, name: str, **arguments: Any) -> UUID:
        """A new job of one tool."""
        request = JobRequest(tool=name, arguments=arguments)
        return (await submit(self.rt, f"t{uuid4().hex[:8]}", request)).job

    async def worker(
        self, pool: str = "openai", *, slots: int = 20, ledger: Ledger | None = None
    ) -> WorkerRuntime:
        """A registered worker that no heartbeat and no Celery runs."""
        rt = WorkerRuntime(
            **self._rooms(ledger or self.ledger),
            pool=pool,
            slots=asyncio.Semaphore(slots),
            providers={"openai": self.provider, "anthropic": self.provider},
            admission=Admission(self.ephemeral, self.settings.limits, self.rt.events),
            prices=self.prices,
        )
        await workers.register(self.ledger, rt.worker, pool, slots, "host:1")
        return rt

    async def run_to_end(
        self, rt: WorkerRuntime, job: UUID, *, rounds: int = 30
    ) -> list[Outcome]:
        """Hint at whatever is queued, and wake what waits, until the job has ended."""
        outcomes: list[Outcome] = []
        for _ in range(rounds):
            if (await self.place.job_row(job))["state"] != "active":
                return outcomes
            paths = await self.queued(job)
            outcomes += [await run_step(rt, job, path) for path in paths]
            await self.wake(job)
        raise AssertionError(f"not ended after {rounds} rounds: {outcomes}")

    async def queued(self, job: UUID) -> list[str]:
        """The queued steps of a job."""
        rows = await self.place.rows(
            "select path from steps where job_id = $1 and state = 'queued' order by path",
            job,
        )
        return [row["path"] for row in rows]

    async def wake(self, job: UUID) -> None:
        """Let a minute pass for the waiting steps of a job."""
        waiting = await self.place.rows(
            "select 1 from steps where job_id = $1 and state = 'waiting'", job
        )
        if waiting:
            await pass_time(self.ledger, 20, [job])
            await release.wake(self.ledger)

    async def output(self, job: UUID, path: str = "") -> str | None:
        """The stored output (JSON) of a step, or of the job."""
        rows = await self.place.rows(
            "select body from payloads where job_id = $1 and path = $2 "
            "and kind = 'output'",
            job, path,
        )  # fmt: skip
        return rows[0]["body"] if rows else None

    async def states(self, job: UUID) -> dict[str, str]:
        """Every step's state by path."""
        rows = await self.place.rows(
            "select path, state from steps where job_id = $1", job
        )
        return {row["path"]: row["state"] for row in rows}

    def listening(self, rt: WorkerRuntime) -> None:
        """Let a worker hear cancel signals until the line ends."""
        task = rt.spawn(rt.hear_signals())

        async def stop() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self.stack.push_async_callback(stop)

    def _rooms(self, ledger: Ledger) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "environ": {},
            "ledger": ledger,
            "broker": self.broker,
            "ephemeral": self.ephemeral,
            "streams": Streams(self.ephemeral),
            "signals": Signals(self.ephemeral),
            "events": Events([self.ear]),
            "metrics": Metrics(),
            "hints": Hints(self.broker, ledger, self.broker.prefix),
            "intake": Intake(ledger, self.settings.gateway.max_queued_per_tenant),
            "pools": Pools(ledger),
            "chains": Chains(ledger),
            "models": Models(self.settings, ENABLED),
            "tools": load_modules(["tests.engine.odd_tools"]),
            "rules": Rules(self.settings.limits),
        }


@asynccontextmanager
async def open_line(
    ledger: Ledger, redis_url: str, prices: Prices, **settings: Any
) -> AsyncIterator[Line]:
    """A line whose keys in Redis nobody shares."""
    prefix = f"t{uuid4().hex[:10]}"
    checked = Settings.model_validate(
        {**SETTINGS, "broker": {"prefix": prefix}, **settings}
    )
    ephemeral = Ephemeral(redis_url, prefix)
    line = Line(ledger, ephemeral, prices, checked, MemoryBroker(prefix))
    try:
        yield line
    finally:
        await line.stack.aclose()
        await ephemeral.close()


async def until(condition: Any, what: str, *, within_s: float = 10.0) -> None:
    """Poll until a condition (also an asynchronous one) holds; TimeoutError after."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        if loop.time() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(0.005)


def key(job: UUID, path: str = "draft") -> StepKey:
    """A step's address."""
    return StepKey(job, path)
