"""What ends a call from outside: a cancel, a drain, the worker's own death, a ghost."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.engine import heartbeat
from llmgine_workers.engine.outcome import Done, Outcome, Skip
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.events import facts
from llmgine_workers.ledger import workers
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.ledger.rows import REJECTED

pytestmark = pytest.mark.integration


async def open_call(
    line: Line, rt: WorkerRuntime, *steps: Any
) -> tuple[UUID, asyncio.Task[Outcome]]:
    """A job whose first step is in its call."""
    job = await line.submit(chain(*(steps or (llm("draft"),))))
    (path, *_) = await line.queued(job)
    line.provider.hold()
    before = len(line.provider.open)
    running = asyncio.create_task(run_step(rt, job, path))
    await until(lambda: len(line.provider.open) > before, "the call is open")
    return job, running


async def beat(rt: WorkerRuntime) -> None:
    """One beat, heard."""
    async with rt.ledger.connection() as connection:
        rt.hear_pulse(await workers.beat(connection, rt.worker))


async def cancel(line: Line, job: UUID) -> None:
    taken = await line.place.end(job, "cancelled", None)
    assert taken.job_end is None


async def test_a_cancel_is_heard_through_redis(line: Line) -> None:
    rt = await line.worker()
    line.listening(rt)
    job, running = await open_call(line, rt)
    await cancel(line, job)
    await asyncio.sleep(0)
    await until(lambda: _signalled(line, job, running), "the call is cancelled")
    assert await running == Done()
    assert await line.states(job) == {"draft": "cancelled"}
    assert (await line.place.job_row(job))["state"] == "cancelled"
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["state"] == "cancelled"
    assert attempt["input_tokens"] > 0
    assert line.provider.finished == 0


async def _signalled(line: Line, job: UUID, running: asyncio.Task[Outcome]) -> bool:
    """Said until it is heard: a listener that has just begun hears only what is new."""
    await line.rt.signals.cancel(job, None)
    return running.done()


async def test_a_cancel_of_one_step_leaves_its_siblings(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt, parallel("all", llm("a"), llm("b")))
    other = asyncio.create_task(run_step(rt, job, "all.b.b"))
    await until(lambda: len(line.provider.open) == 2, "both calls are open")
    rt.presence.stop(key(job, "all.a.a"), "job ending")
    assert await running == Done()
    line.provider.let_go()
    assert await other == Done()


async def test_a_cancel_is_heard_in_the_beat(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt)
    await beat(rt)
    await asyncio.sleep(0)
    assert not running.done()
    await cancel(line, job)
    await beat(rt)
    assert await running == Done()
    assert (await line.place.job_row(job))["state"] == "cancelled"


async def test_a_call_whose_job_failed_ends_with_one_letter(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt)
    await line.place.end(job, "failed", REJECTED)
    await beat(rt)
    assert await running == Done()
    assert await line.states(job) == {"draft": "cancelled"}
    assert len(await line.place.letters(job)) == 1
    (ended,) = line.ear.heard(facts.JobFinished)
    assert ended.state == "failed"


async def test_a_word_that_comes_after_the_answer_changes_nothing(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt)
    async with line.ledger.transaction() as held:
        await held.execute("select from jobs where id = $1 for update", job)
        line.provider.let_go()
        await until(lambda: line.provider.finished, "the answer is here")
        await until(lambda: _waits(line), "its commit waits")
        rt.presence.stop_all("grace is over")
        await asyncio.sleep(0)
    assert await running == Done()
    assert await line.states(job) == {"draft": "succeeded"}


async def _waits(line: Line) -> bool:
    rows = await line.place.rows("select from pg_locks where not granted")
    return bool(rows)


async def test_ghosts_are_given_back_at_the_second_beat(line: Line) -> None:
    """A claim committed, its answer lost, and the visit gone."""
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    claim = await line.place.claimed(key(job), rt.worker)
    await beat(rt)
    assert await line.states(job) == {"draft": "running"}
    await beat(rt)
    await until(lambda: _held(line, job), "it is given back")
    row = await line.place.step_row(key(job))
    assert (row["fence"], row["crashes"]) == (claim.fence + 1, 0)
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["state"] == "cancelled", "it was never sent"
    assert await run_step(rt, job, "draft") == Done()


async def _held(line: Line, job: UUID) -> bool:
    return await line.states(job) == {"draft": "queued"}


async def test_a_call_that_is_here_is_no_ghost(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt)
    for _ in range(4):
        await beat(rt)
    line.provider.let_go()
    assert await running == Done()
    assert len(await line.place.attempts(key(job))) == 1


async def test_a_drain_finishes_calls_and_hands_hints_back(line: Line) -> None:
    rt = await line.worker()
    job, running = await open_call(line, rt)
    rt.drain()
    other = await line.submit(chain(llm("draft")))
    await line.place.rows("update steps set released_at = now() where job_id = $1", other)

    assert isinstance(await run_step(rt, other, "draft"), Skip)

    assert (await line.place.step_row(key(other)))["released_at"] is None
    line.provider.let_go()
    assert await running == Done()
    assert (await line.place.job_row(job))["state"] == "succeeded"
    assert len(line.provider.calls) == 1


async def test_hints_that_wait_for_a_slot_are_handed_back_unclaimed(line: Line) -> None:
    rt = await line.worker(slots=1)
    _, running = await open_call(line, rt)
    other = await line.submit(chain(llm("draft")))
    behind = asyncio.create_task(run_step(rt, other, "draft"))
    rt.drain()
    line.provider.let_go()
    assert await running == Done()
    assert isinstance(await behind, Skip)
    assert await line.states(other) == {"draft": "queued"}


async def test_what_runs_past_the_grace_is_given_back_as_ambiguous(line: Line) -> None:
    rt = await line.worker()
    short = rt.settings.worker.model_copy(update={"grace": 0.05})
    rt.settings = rt.settings.model_copy(update={"worker": short})
    job, running = await open_call(line, rt)
    rt.drain()
    assert isinstance(await asyncio.wait_for(running, 5), Skip)
    row = await line.place.step_row(key(job))
    assert (row["state"], row["released_at"], row["crashes"]) == ("queued", None, 0)
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["state"] == "ambiguous"
    line.provider.let_go()
    next_rt = await line.worker()
    assert await run_step(next_rt, job, "draft") == Done()


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)


async def beats_of(line: Line, worker: UUID) -> int:
    rows = await line.place.rows("select beat_no from workers where id = $1", worker)
    return int(rows[0]["beat_no"]) if rows else 0


@pytest.mark.usefixtures("quick_beats")
async def test_a_worker_that_reads_of_its_death_begins_anew_under_a_new_id(
    line: Line,
) -> None:
    rt = await line.worker()
    async with rt.alive():
        old = rt.worker
        job, running = await open_call(line, rt)
        await until(lambda: beats_of(line, old), "it beats")
        await line.place.rows("update workers set dead_at = now() where id = $1", old)

        outcome = await asyncio.wait_for(running, 5)

        assert isinstance(outcome, Skip)
        await until(lambda: beats_of(line, rt.worker), "it beats again")
        fresh = rt.worker
        assert fresh != old
        last = await beats_of(line, old)
        (attempt,) = await line.place.attempts(key(job))
        assert attempt["state"] == "started", "the scheduler takes it, not the dead"
        await line.place.take_back(old)
        line.provider.let_go()
        assert await run_step(rt, job, "draft") == Done()
        before = await beats_of(line, fresh)
        await until(lambda: _beaten(line, fresh, before + 10), "ten beats of the new one")
        assert rt.worker == fresh, "one death, one rebirth"
        assert await beats_of(line, old) == last
        assert await line.states(job) == {"draft": "succeeded"}
    (row,) = await line.place.rows("select * from workers where id = $1", fresh)
    assert row["stopped_at"] is not None


async def _beaten(line: Line, worker: UUID, times: int) -> bool:
    return await beats_of(line, worker) >= times


@pytest.mark.usefixtures("quick_beats")
async def test_a_worker_that_leaves_in_order_is_not_looked_for(line: Line) -> None:
    rt = await line.worker()
    async with rt.alive():
        await until(lambda: beats_of(line, rt.worker), "it beats")
    async with line.ledger.connection() as connection:
        _, observed = await workers.observe(connection)
    assert rt.worker not in {one.id for one in observed}


@pytest.mark.usefixtures("quick_beats")
async def test_a_bug_in_a_beat_does_not_end_the_beating(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = workers.beat, 3

    async def sometimes(*args: Any) -> Any:
        nonlocal broken
        if broken:
            broken -= 1
            raise ZeroDivisionError
        return await real(*args)

    monkeypatch.setattr(workers, "beat", sometimes)
    rt = await line.worker()
    async with rt.alive():
        await until(lambda: beats_of(line, rt.worker), "it beats after all")
    assert broken == 0
