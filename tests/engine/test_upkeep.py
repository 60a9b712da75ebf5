"""The scheduler's duties, on jobs that need them."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine import upkeep
from llmgine_workers.engine.outcome import Done
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.watch import Watch
from llmgine_workers.events import facts
from llmgine_workers.ledger import workers
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.resilience.admission import Admission
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration


async def crash(line: Line, job: UUID, path: str, times: int) -> None:
    """Let that many workers die of a step, and the scheduler see it."""
    for _ in range(times):
        worker = await line.place.worker()
        await line.place.claimed(key(job, path), worker)
        await line.place.die(worker)
        await upkeep.take_back_lost_steps(line.rt)


async def test_the_third_crash_kills_the_step_and_its_job(line: Line) -> None:
    job = await line.submit(chain(llm("draft")))
    await crash(line, job, "draft", 2)
    assert await line.states(job) == {"draft": "queued"}
    assert len(line.ear.heard(facts.LeaseLost)) >= 2
    await crash(line, job, "draft", 1)
    assert await line.states(job) == {"draft": "failed"}
    assert (await line.place.job_row(job))["state"] == "failed"
    (letter,) = await line.place.letters(job)
    assert letter["error"]["code"] == "max_crashes"
    assert letter["error"]["attempts"] == 3
    assert letter["error"]["exhausted"]
    assert [a["state"] for a in await line.place.attempts(key(job))] == ["ambiguous"] * 3
    ended = [one for one in line.ear.heard(facts.JobFinished) if one.job == job]
    assert [(one.state, one.dead_letter) for one in ended] == [("failed", letter["id"])]


async def test_a_third_crash_asks_the_chain_for_a_fallback(line: Line) -> None:
    job = await line.submit(chain(llm("draft", fallback="by hand"), llm("final")))
    await crash(line, job, "draft", 3)
    assert await line.states(job) == {"draft": "failed", "final": "queued"}
    assert await run_step(await line.worker(), job, "final") == Done()
    assert (await line.place.job_row(job))["state"] == "succeeded"
    assert await line.place.letters(job) == []


async def test_a_third_crash_in_a_cancelled_job_is_no_failure(line: Line) -> None:
    job = await line.submit(chain(llm("draft")))
    await crash(line, job, "draft", 2)
    worker = await line.place.worker()
    await line.place.claimed(key(job), worker)
    await line.place.end(job, "cancelled", None)
    await line.place.die(worker)
    await upkeep.take_back_lost_steps(line.rt)
    assert await line.states(job) == {"draft": "cancelled"}
    assert (await line.place.job_row(job))["state"] == "cancelled"
    assert await line.place.letters(job) == []


async def test_an_expired_job_fails_and_its_call_is_told(line: Line) -> None:
    rt = await line.worker()
    line.listening(rt)
    job = await line.submit(chain(parallel("all", llm("a"), llm("b"))), timeout_s=60.0)
    line.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "all.a.a"))
    await until(lambda: line.provider.open, "the call is open")
    await line.place.age(61, job)

    await upkeep.expire_jobs(line.rt)

    assert await asyncio.wait_for(running, 5) == Done()
    assert set((await line.states(job)).values()) == {"cancelled"}
    (letter,) = await line.place.letters(job)
    assert letter["error"]["code"] == "job_timeout"
    (ended,) = [one for one in line.ear.heard(facts.JobFinished) if one.job == job]
    assert (ended.state, ended.dead_letter) == ("failed", letter["id"])


async def test_an_idle_ending_is_settled_and_told(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    claim = await line.place.claimed(key(job), rt.worker)
    await line.place.end(job, "cancelled", None)
    async with line.ledger.transaction() as connection:
        await connection.execute(
            "update steps set state = 'queued', fence = $2 where job_id = $1",
            job, claim.fence + 1,
        )  # fmt: skip
    await upkeep.settle_endings(line.rt)
    assert await line.states(job) == {"draft": "cancelled"}
    (ended,) = [one for one in line.ear.heard(facts.JobFinished) if one.job == job]
    assert ended.state == "cancelled"


async def test_released_steps_are_offered_to_the_broker(line: Line) -> None:
    place = Place(line.ledger)
    (hinted,) = await place.submit(released=False)
    gate = Admission(line.ephemeral, (), line.rt.events)
    publishing = line.rt.spawn(line.rt.hints.run())
    await upkeep.release_steps(line.rt, gate, place.pool)
    await line.rt.hints.drain()
    publishing.cancel()
    (message,) = line.broker.queues[f"{line.rt.prefix}.{place.pool}"]
    assert message.id == str(clock.task_id(hinted.job, hinted.path, 0))


@pytest.mark.parametrize(("up", "lost"), [(True, True), (False, False)])
async def test_hints_are_lost_only_where_the_brokers_depth_is_known(
    line: Line, up: bool, lost: bool
) -> None:
    place = Place(line.ledger)
    (hinted,) = await place.submit()
    await place.age(31, hinted.job)
    line.broker.up = up
    await upkeep.find_lost_hints(line.rt, place.pool)
    assert ((await place.step_row(hinted))["released_at"] is None) == lost


class Away(Ledger):
    """A ledger that does not answer."""

    def connection(self) -> object:  # type: ignore[override]
        raise LedgerDown("away")


class Seconds:
    """A clock that a test moves; each second the scheduler polls once."""

    def __init__(self, line: Line) -> None:
        self.now = 0.0
        self._line = line
        self._watch = Watch(clock=lambda: self.now)

    async def poll(self, seconds: int) -> None:
        """Let so many seconds go by."""
        for _ in range(seconds):
            self.now += 1
            await upkeep.watch_workers(self._line.rt, self._watch)


async def test_a_poll_that_fails_begins_the_watch_anew(line: Line) -> None:
    seconds, worker = Seconds(line), await line.place.worker()
    await seconds.poll(15)
    ledger, line.rt.ledger = line.rt.ledger, Away(line.ledger.url, line.ledger.schema)
    with pytest.raises(LedgerDown):
        await seconds.poll(1)
    line.rt.ledger = ledger
    await seconds.poll(15)
    assert await is_dead(line, worker) is False
    await seconds.poll(1)
    assert await is_dead(line, worker) is True
    assert worker in {one.worker for one in line.ear.heard(facts.WorkerStopped)}


async def is_dead(line: Line, worker: UUID) -> bool:
    (row,) = await line.place.rows("select dead_at from workers where id = $1", worker)
    return row["dead_at"] is not None


async def test_a_worker_that_beats_is_not_declared_dead(line: Line) -> None:
    seconds, worker = Seconds(line), await line.place.worker()
    for _ in range(4):
        await seconds.poll(10)
        async with line.ledger.connection() as connection:
            await workers.beat(connection, worker)
    assert not await is_dead(line, worker)
