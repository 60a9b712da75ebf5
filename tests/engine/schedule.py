"""A random schedule of everything the protocol must stand, on a real ledger.

One loop plays gateway, scheduler, workers, broker and time, one action after another:
hints are lost and doubled, processes die and freeze, commits happen whose answers are
lost, jobs are cancelled, expire and are replayed. The code of the rows is ours as it
runs; only what it would wait for is played. After the chaos comes a calm, in which
every job has to reach its end.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from llmgine_workers import clock
from llmgine_workers.engine import upkeep
from llmgine_workers.engine.heartbeat import Heartbeat
from llmgine_workers.engine.hints import Hints
from llmgine_workers.engine.pools import Pools
from llmgine_workers.engine.registry import Chains
from llmgine_workers.engine.replay import replay
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.submit import JobRequest, Options, submit
from llmgine_workers.engine.watch import Watch
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.signals import Signals
from llmgine_workers.ledger import release, sweep, workers
from llmgine_workers.ledger.connection import Connection, Ledger, LedgerDown
from llmgine_workers.ledger.records import Released, StepKey
from llmgine_workers.llm import LlmAnswer, LlmRequest, OnDelta
from llmgine_workers.resilience.admission import Admission, Admitted, Verdict, Wait
from llmgine_workers.resilience.limits import Reserved
from llmgine_workers.runtime import Runtime
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.line import Line, chain, llm, parallel
from tests.engine.stand_ins import MemoryBroker, answer, failing
from tests.ledger.rows import pass_time

POOL = "openai"
SILENT_S = 40.0
LONGEST_STEP_S = SILENT_S / 6
"""Time moves in such steps at most, or the watch would take them for its own sleep."""

CALM_ROUNDS = 60
SLOTS = 2


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


@dataclass
class Broken:
    """What the protocol promises never to happen."""

    stuck: list[UUID] = field(default_factory=list)
    overpaid: list[StepKey] = field(default_factory=list)
    wrong_letters: list[UUID] = field(default_factory=list)
    leftovers: list[StepKey] = field(default_factory=list)
    open_attempts: list[StepKey] = field(default_factory=list)
    wrong_winners: list[StepKey] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


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

    async def ask(self, provider: str, model: str) -> Verdict:
        """Admitted, mostly."""
        if self.world.happens(0.1):
            until = clock.now() + timedelta(seconds=20)
            return Wait("limit", "used up", until, self.world.random.uniform(1, 20))
        return Admitted(provider, model, Reserved((), (), None), None)

    async def settle(
        self, admitted: Admitted, outcome: str, *, retry_after_s: float | None = None
    ) -> None:
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

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As ever, but dying is no news."""
        task = super().spawn(work)
        task.add_done_callback(_retrieved)
        return task

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


class World:
    """One schedule: `run()` it, then read the verdict.

    `without` leaves duties of the scheduler out, by the names of `DUTIES`.
    """

    def __init__(
        self, line: Line, seed: int, *, jobs: int = 12, without: Iterable[str] = ()
    ) -> None:
        self.line = line
        self.random = random.Random(seed)  # noqa: S311 - a schedule to be repeated
        self.chaos = True
        self.now = 0.0
        self.jobs: list[UUID] = []
        self.hints: list[StepKey] = []
        self.processes: list[Process] = []
        self.paid: Counter[StepKey] = Counter()
        self._to_come = jobs
        self._thought_dead: set[UUID] = set()
        self._poison: StepKey | None = None
        self._called = asyncio.Event()
        self._watch = Watch(SILENT_S, clock=lambda: self.now)
        self.tenant = f"t{uuid4().hex[:10]}"
        self.gate = self._gate()
        self._gateway = self._make(Runtime)
        self._scheduler = self._make(Runtime)
        self._duties = [n for n in DUTIES if n not in set(without)]

    async def run(self, actions: int = 400) -> Broken:
        """Chaos, then calm; what is broken afterwards."""
        for _ in range(3):
            await self._start_process()
        for _ in range(actions):
            (act,) = self.random.choices([a for a, _ in ACTIONS], [w for _, w in ACTIONS])
            await act(self)
            await self._settle()
        self.chaos = False
        await self._calm()
        return await self._judge()

    async def close(self) -> None:
        """End what is left, so that no later schedule meets it."""
        for process in self.processes:
            self.kill(process)
        await self._settle()
        await self.line.place.rows(
            "update workers set dead_at = now() where dead_at is null"
        )
        await self.line.place.rows("delete from steps where job_id = any($1)", self.jobs)
        await self.line.place.rows("delete from jobs where id = any($1)", self.jobs)

    def happens(self, share: float) -> bool:
        """Whether something that happens so often happens now."""
        return self.chaos and self.random.random() < share

    def kill(self, process: Process) -> None:
        """SIGKILL: its open calls may have been paid for, and it writes nothing more."""
        if process.dead:
            return
        process.dead = True
        for key, call in process.open.items():
            if not call.done():
                self.paid[key] += 1
                call.set_exception(Killed())

    def living(self) -> list[Process]:
        """Processes that are neither dead nor frozen."""
        return [p for p in self.processes if not p.dead and p.frozen_until <= self.now]

    # What may happen.

    async def submit(self) -> None:
        """A gateway takes a job; perhaps it dies before it has published."""
        if not self._to_come:
            return
        self._to_come -= 1
        what = self.random.choice(CHAINS)()
        options = Options(timeout_s=self.random.choice((300.0, 5000.0, 5000.0)))
        request = JobRequest(chain=what, options=options)
        await self._gateway.pools.refresh()
        with suppress(LedgerDown):
            await submit(self._gateway, self.tenant, request)
        rows = await self.line.place.rows(
            "select id from jobs where tenant = $1 order by id", self.tenant
        )
        self.jobs = [row["id"] for row in rows]
        self._poison = StepKey(self.jobs[0], "draft") if self.jobs else None

    async def deliver(self) -> None:
        """One of the oldest hints reaches a process with a free slot."""
        free = [p for p in self.living() if len(p.visits) < SLOTS]
        if not (free and self.hints):
            return
        key = self.hints.pop(self.random.randrange(min(3, len(self.hints))))
        process = self.random.choice(free)
        visit = asyncio.create_task(run_step(process, key.job, key.path))
        visit.add_done_callback(_retrieved)
        process.visits[visit] = key

    async def end_a_call(self) -> None:
        """A provider answers, or does not; a zombie first, before it hears that it is
        one. Of one step's answer every process dies."""
        calls = self._zombie_calls() or self._open_calls()
        if not calls:
            return
        process, key = self.random.choice(calls)
        how = self.random.random() if self.chaos else 1.0
        if key == self._poison:
            self.kill(process)
        elif how < 0.2:
            process.open[key].set_exception(failing("stream_cut"))
        elif how < 0.25:
            pause = failing("provider_rate_limited", retry_after_s=9.0)
            process.open[key].set_exception(pause)
        elif how < 0.37:
            process.open[key].set_exception(failing("provider_rejected"))
        else:
            self.paid[key] += 1
            process.open[key].set_result(answer())

    async def pass_time(self, seconds: float | None = None) -> None:
        """Time moves, living processes beat, and the scheduler looks at their beats."""
        seconds = seconds or self.random.uniform(1, LONGEST_STEP_S)
        self.now += seconds
        await pass_time(self.line.ledger, seconds, self.jobs)
        for process in self.living():
            if not self.happens(0.6):
                await self._beat(process)
        async with self.line.ledger.connection() as connection:
            server, observed = await workers.observe(connection)
        for one in self._watch.poll(server, observed):
            await workers.declare_dead(self.line.ledger, one.id, one.beat_no)
            self._thought_dead.add(one.id)

    async def do_a_duty(self) -> None:
        """The scheduler does one of its duties."""
        await self._duty(self.random.choice(self._duties))

    async def kill_one(self) -> None:
        """A process dies."""
        for process in self._one_in_a_call():
            self.kill(process)

    async def freeze_one(self) -> None:
        """A process stops for a while, perhaps long enough to be thought dead."""
        for process in self._one_in_a_call():
            process.frozen_until = self.now + self.random.uniform(5, 3 * SILENT_S)

    async def drain_one(self) -> None:
        """SIGTERM, and the grace is over before its calls are."""
        for process in self._one_in_a_call():
            process.draining = True
            for key, call in process.open.items():
                self.paid[key] += not call.done()
            process.presence.stop_all("grace is over")
            await self._settle()
            with suppress(LedgerDown):
                await workers.stop(self.line.ledger, process.worker)
            self.kill(process)

    def _open_calls(self) -> list[tuple[Process, StepKey]]:
        living = [(process, process.open) for process in self.living()]
        return [(p, k) for p, calls in living for k, f in calls.items() if not f.done()]

    def _zombie_calls(self) -> list[tuple[Process, StepKey]]:
        return [
            (process, key)
            for process, key in self._open_calls()
            if process.worker in self._thought_dead
        ]

    def _one_in_a_call(self) -> list[Process]:
        """One living process, if there is one that can be hit in the middle of a call."""
        calling = [process for process in self.living() if process.open]
        return self.random.sample(calling, min(1, len(calling)))

    async def start_one(self) -> None:
        """Somebody starts a process where few are left."""
        if sum(not p.dead for p in self.processes) < 3:
            await self._start_process()

    async def purge(self) -> None:
        """The broker loses all it has."""
        self.hints.clear()

    async def cancel_one(self) -> None:
        """A client does not want its job any more, just while it is being worked on."""
        calling = [key.job for process in self.processes for key in process.open]
        if calling:
            job = self.random.choice(calling)
            with suppress(LedgerDown):
                await sweep.end_job(self._gateway.ledger, job, "cancelled", None)

    async def replay_one(self) -> None:
        """A person asks for a failed job again, twice."""
        letters = await self._open_letters()
        if letters:
            letter = self.random.choice(letters)
            with suppress(LedgerDown):
                await replay(self._gateway, [letter, letter], "someone")

    async def _open_letters(self) -> list[UUID]:
        rows = await self.line.place.rows(
            "select id from letters where job_id = any($1) and state = 'open' "
            "order by id",
            self.jobs,
        )
        return [row["id"] for row in rows]

    # How it goes on.

    async def _calm(self) -> None:
        self._to_come, self._poison = 0, None
        for process in self.processes:
            process.frozen_until = 0.0
        while self._zombie_calls():
            await self.end_a_call()
            await self._settle()
        await replay(self._gateway, await self._open_letters(), "someone")
        for _ in range(CALM_ROUNDS):
            await self.start_one()
            await self.pass_time(LONGEST_STEP_S)
            await self._settle()
            for duty in self._duties:
                await self._duty(duty)
            while self.hints and any(len(p.visits) < SLOTS for p in self.living()):
                await self.deliver()
                await self._settle()
            while any(p.open for p in self.living()):
                await self.end_a_call()
                await self._settle()
            if not await self._active():
                return

    async def _duty(self, name: str) -> None:
        with suppress(LedgerDown):  # the next tick does it
            await DUTIES[name](self, self._scheduler)

    async def _beat(self, process: Process) -> None:
        async with self.line.ledger.connection() as connection:
            pulse = await workers.beat(connection, process.worker)
        if pulse.dead:
            for key, call in process.open.items():
                self.paid[key] += not call.done()
        process.hear_pulse(pulse)
        await self._settle()

    async def _start_process(self) -> None:
        process = self._make(
            Process,
            pool=POOL,
            slots=asyncio.Semaphore(SLOTS),
            called=self._called,
            providers={},
            admission=self._gate(),
            prices=self.line.prices,
        )
        process.providers = {POOL: process}
        process.heartbeat = NoHeart()
        self.processes.append(process)
        await workers.register(self.line.ledger, process.worker, POOL, SLOTS, "host:1")

    def _gate(self) -> Moody:
        gate = Moody(self.line.ephemeral, (), self.line.rt.events)
        gate.world = self
        return gate

    def _make(self, kind: Any, **more: Any) -> Any:
        shared = {one.name: getattr(self.line.rt, one.name) for one in fields(Runtime)}
        made = kind(**{**shared, "_tasks": set(), **more})
        of = made if kind is Process else None
        made.ledger = Unreliable(self, of)
        made.hints = Lossy(self, of)
        made.broker = Queue(self)
        made.signals = Whispered(self)
        made.chains = Chains(made.ledger)
        made.pools = Pools(self.line.ledger)
        return made

    async def _settle(self) -> None:
        """Until everybody waits for something that this schedule decides."""
        while True:
            await asyncio.sleep(0)
            going = [task for process in self.processes for task in process.busy()]
            if not going:
                return
            self._called.clear()
            called = asyncio.ensure_future(self._called.wait())
            done, _ = await asyncio.wait(
                [*going, called], timeout=10, return_when=asyncio.FIRST_COMPLETED
            )
            called.cancel()
            if not done:
                raise AssertionError(f"these hang: {going}")

    async def _active(self) -> list[UUID]:
        rows = await self.line.place.rows(
            "select id from jobs where id = any($1) and state = 'active'", self.jobs
        )
        return [row["id"] for row in rows]

    # What must hold.

    async def _judge(self) -> Broken:
        rows = self.line.place.rows
        jobs = await rows("select id, state, run from jobs where id = any($1)", self.jobs)
        letters = await rows(
            "select job_id, array_agg(run order by run) as runs, "
            "count(*) filter (where state = 'open') as open "
            "from letters where job_id = any($1) group by job_id",
            self.jobs,
        )
        written = {row["job_id"]: (row["runs"], row["open"]) for row in letters}
        steps = await rows(
            "select s.job_id, s.path, s.state, s.fence, "
            "(select body::json->>'text' from payloads p where p.job_id = s.job_id "
            "and p.path = s.path and p.kind = 'output')::int as winner, "
            "count(*) filter (where a.state = 'ambiguous') as doubled, "
            "count(*) filter (where a.state = 'started') as started "
            "from steps s left join attempts a using (job_id, path) "
            "where job_id = any($1) group by 1, 2, 3, 4",
            self.jobs,
        )
        ended = {job["id"] for job in jobs if job["state"] != "active"}
        keys = [(StepKey(row["job_id"], row["path"]), row) for row in steps]
        return Broken(
            stuck=[job["id"] for job in jobs if job["id"] not in ended],
            overpaid=[k for k, row in keys if self.paid[k] > 1 + row["doubled"]],
            wrong_letters=[
                job["id"] for job in jobs
                if job["id"] in ended
                and written.get(job["id"], ([], 0)) != _due_letters(job)
            ],
            leftovers=[
                k for k, row in keys
                if k.job in ended and row["state"] in ("queued", "running", "waiting")
            ],
            open_attempts=[k for k, row in keys if k.job in ended and row["started"]],
            wrong_winners=[
                k for k, row in keys
                if row["state"] == "succeeded" and row["winner"] != row["fence"]
            ],
        )  # fmt: skip


def _due_letters(job: dict[str, Any]) -> tuple[list[int], int]:
    """The runs that failed, and how many of their letters nobody has resolved."""
    failed = job["state"] == "failed"
    return list(range(job["run"] + failed)), int(failed)


def _retrieved(visit: asyncio.Task[Any]) -> None:
    """Dying is no news here, and what is not done now the next beat does."""
    if not visit.cancelled() and not isinstance(
        visit.exception(), Killed | LedgerDown | None
    ):
        raise AssertionError("nothing may escape") from visit.exception()


CHAINS: tuple[Callable[[], dict[str, Any]], ...] = (
    lambda: chain(llm("draft"), llm("final", "{{ steps.draft.output }}")),
    lambda: chain(parallel("both", llm("a"), llm("b")), llm("final")),
    lambda: chain(parallel("both", llm("a", fallback="x"), llm("b")), llm("final")),
)

DUTIES: dict[str, Callable[[World, Runtime], Awaitable[object]]] = {
    "release": lambda world, rt: upkeep.release_steps(rt, world.gate, POOL),
    "lost hints": lambda _, rt: upkeep.find_lost_hints(rt, POOL),
    "wake": lambda _, rt: release.wake(rt.ledger),
    "lost steps": lambda _, rt: upkeep.take_back_lost_steps(rt),
    "expire": lambda _, rt: upkeep.expire_jobs(rt),
    "endings": lambda _, rt: upkeep.settle_endings(rt),
}

ACTIONS: tuple[tuple[Callable[[World], Awaitable[None]], int], ...] = (
    (World.deliver, 30),
    (World.end_a_call, 8),
    (World.do_a_duty, 36),
    (World.submit, 10),
    (World.pass_time, 14),
    (World.start_one, 4),
    (World.kill_one, 2),
    (World.freeze_one, 4),
    (World.purge, 1),
    (World.drain_one, 1),
    (World.cancel_one, 1),
    (World.replay_one, 4),
)
