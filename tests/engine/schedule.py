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
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any
from uuid import UUID, uuid4

from llmgine_workers.engine import upkeep
from llmgine_workers.engine.pools import Pools
from llmgine_workers.engine.registry import Chains
from llmgine_workers.engine.replay import replay
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.submit import JobRequest, Options, submit
from llmgine_workers.engine.watch import Watch
from llmgine_workers.ledger import release, sweep, workers
from llmgine_workers.ledger.connection import LedgerDown
from llmgine_workers.ledger.records import StepKey
from llmgine_workers.runtime import Runtime
from tests.engine.broken import Broken, judged
from tests.engine.line import Line, chain, llm, parallel
from tests.engine.stand_ins import answer, failing
from tests.engine.trouble import (
    Killed,
    Lossy,
    Moody,
    NoHeart,
    Process,
    Queue,
    Unreliable,
    Whispered,
)
from tests.ledger.rows import pass_time

POOL = "openai"
SILENT_S = 40.0
LONGEST_STEP_S = SILENT_S / 6
"""Time moves in such steps at most, or the watch would take them for its own sleep."""

CALM_ROUNDS = 60
SLOTS = 2


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
        broken = await judged(self.line.place, self.jobs, self.paid)
        broken.escaped = [error for one in self.processes for error in one.escaped]
        return broken

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
        visit.add_done_callback(process.ended)
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
