"""What a process of a random schedule has instead of reliable neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.engine.heartbeat import Heartbeat
from llmgine_workers.engine.hints import Hints
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.signals import Signals
from llmgine_workers.ledger.connection import Connection, Ledger, LedgerDown
from llmgine_workers.ledger.records import Released, StepKey
from llmgine_workers.llm import (
    Embedded,
    EmbedRequest,
    LlmAnswer,
    LlmRequest,
    OnDelta,
)
from llmgine_workers.resilience.admission import Admission, Admitted, Verdict, Wait
from llmgine_workers.resilience.limits import Reserved
from llmgine_workers.resilience.rules import Demand
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.stand_ins import MemoryBroker

if TYPE_CHECKING:
    from tests.engine.schedule import World


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


class Unreliable(Ledger):
    """The ledger as one process sees it: silent before or after the commit, or gone."""

    def __init__(self, world: World, of: Process | None) -> None:
        ledger = world.line.ledger
        super().__init__(ledger.url, ledger.schema)
        self._world = world
        self._of = of

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the line's own ledger, with trouble on both sides of it."""
        self._may_be_gone()
        if self._world.happens(0.02):
            raise LedgerDown("no answer")
        async with self._world.line.ledger.connection() as connection:
            yield connection
        if self._of and self._world.happens(0.01):
            self._world.kill(self._of)
        self._may_be_gone()
        if self._world.happens(0.03):
            raise LedgerDown("the answer was lost")

    def _may_be_gone(self) -> None:
        if self._of and self._of.dead:
            raise Killed


class Lossy(Hints):
    """What is offered arrives, or gets lost, or arrives twice; or its sender dies."""

    def __init__(self, world: World, of: Process | None) -> None:
        super().__init__(world.line.broker, world.line.ledger, world.line.rt.prefix)
        self._world = world
        self._of = of

    def offer(self, released: Sequence[Released]) -> None:
        """Between commit and publish: now or never."""
        if self._of and self._world.happens(0.1):
            self._world.kill(self._of)
            raise Killed
        for one in released:
            copies = self._world.random.choices((0, 1, 2), (15, 75, 10))[0]
            self._world.hints += [one.key] * (copies if self._world.chaos else 1)


class Queue(MemoryBroker):
    """The scheduler sees how many hints are ready, or that the broker is away."""

    def __init__(self, world: World) -> None:
        super().__init__(world.line.rt.prefix)
        self._world = world

    async def depth(self, queue: str) -> int | None:
        """The length of the queue."""
        return None if self._world.happens(0.1) else len(self._world.hints)


class Whispered(Signals):
    """Cancel signals that half of the time nobody hears."""

    def __init__(self, world: World) -> None:
        super().__init__(world.line.ephemeral)
        self._world = world

    async def cancel(self, job: UUID, paths: Iterable[str] | None) -> None:
        """Told to all, or Redis is away."""
        if self._world.happens(0.5):
            raise EphemeralDown("away")
        for process in self._world.living():
            process.presence.stop_job(job, "job ending")


class Moody(Admission):
    """A gate that sends one in ten away."""

    world: World

    async def room(self, provider: str, at_most: int) -> int:
        """Nothing, at times."""
        return 0 if self.world.happens(0.1) else at_most

    async def ask(self, demand: Demand, lease_s: float) -> Verdict:
        """Admitted, mostly."""
        if self.world.happens(0.1):
            until = clock.now() + timedelta(seconds=20)
            return Wait("limit", "used up", until, self.world.random.uniform(1, 20))
        return Admitted(demand, Reserved("", (), (), None), None)

    async def settle(self, admitted: Admitted, outcome: str, **_: object) -> None:
        """Nothing is counted."""

    async def refund(self, admitted: Admitted) -> None:
        """Nothing is counted."""


class NoHeart(Heartbeat):
    """The schedule itself says when a process beats."""

    def __init__(self) -> None:
        """Open nothing."""

    def start(self, worker: UUID) -> None:
        """Nothing to start."""


@dataclass(kw_only=True)
class Process(WorkerRuntime):
    """One worker process, which may die and freeze."""

    dead: bool = False
    frozen_until: float = 0.0
    called: asyncio.Event
    open: dict[StepKey, asyncio.Future[LlmAnswer]] = field(default_factory=dict)
    visits: dict[asyncio.Task[Any], StepKey] = field(default_factory=dict)
    escaped: list[BaseException] = field(default_factory=list)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As ever, but dying is no news."""
        task = super().spawn(work)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Dying is no news; what the ledger did not take now the next beat repeats."""
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, Killed | LedgerDown | None):
            self.escaped.append(error)

    async def call(
        self,
        request: LlmRequest,
        *,
        timeout_s: float,
        headers: Mapping[str, str],
        on_delta: OnDelta | None = None,
    ) -> LlmAnswer:
        """A call of this process, open until it is ended. It answers its own fence."""
        key = StepKey(UUID(headers["x-llmgine-job"]), headers["x-llmgine-step"])
        self.open[key] = asyncio.get_running_loop().create_future()
        self.called.set()
        try:
            found = await self.open[key]
            return replace(found, text=headers["x-llmgine-fence"])
        finally:
            del self.open[key]

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str]
    ) -> Embedded:
        """No schedule has such a step: it goes the way of a call."""
        raise AssertionError(request)

    async def close(self) -> None:
        """Nothing is open."""

    def quarantine(self, step: Any) -> AbstractAsyncContextManager[Any]:
        """Left out: a visit that waits for another would look like one that hangs."""
        return nullcontext()

    def busy(self) -> list[asyncio.Task[Any]]:
        """What goes on by itself: not those whose calls wait for an answer."""
        self.visits = {task: key for task, key in self.visits.items() if not task.done()}
        answered = [
            task
            for task, key in self.visits.items()
            if key not in self.open
            or self.open[key].done()
            or self.presence.why_stopped(key)
        ]
        return answered + [task for task in self._tasks if not task.done()]
