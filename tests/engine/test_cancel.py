"""Row 15 by a person's word, against whatever else happens to the job at that moment."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine.cancel import cancel
from llmgine_workers.engine.outcome import Dead, Done, Outcome
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import jobs, steps, sweep
from llmgine_workers.ledger.records import Finish
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.engine.stand_ins import failing
from tests.ledger.rows import OVERLOADED, PAID

pytestmark = pytest.mark.integration


async def owner(line: Line, job: UUID) -> str:
    return str((await line.place.job_row(job))["tenant"])


async def cancelled(line: Line, job: UUID) -> bool | str | None:
    """What a client hears: True, False, None, or the code it is refused with."""
    try:
        return await cancel(line.rt, await owner(line, job), job)
    except Refusal as refusal:
        return refusal.code


async def end_of(line: Line, job: UUID) -> str:
    row = await line.place.job_row(job)
    assert row["ending"] is None
    return str(row["state"])


async def test_a_job_without_calls_ends_at_once_and_is_told_once(line: Line) -> None:
    job = await line.submit(chain(parallel("both", llm("a"), llm("b")), llm("last")))
    assert await cancelled(line, job) is True
    assert await end_of(line, job) == "cancelled"
    assert set((await line.states(job)).values()) == {"cancelled"}
    assert await cancelled(line, job) is False
    (told,) = line.ear.heard(facts.JobFinished)
    assert (told.job, told.state, told.error) == (job, "cancelled", None)
    assert await line.place.letters(job) == []


async def test_a_running_call_is_stopped_and_its_bill_kept(line: Line) -> None:
    rt = await line.worker()
    line.listening(rt)
    line.provider.hold()
    job = await line.submit(chain(llm("draft", "Write. " * 50), llm("then")))
    running = asyncio.ensure_future(run_step(rt, job, "draft"))
    await until(lambda: line.provider.open, "the call")
    assert await cancelled(line, job) is True
    assert (await line.place.job_row(job))["ending"] == "cancelled"
    await asyncio.wait_for(running, 5)
    assert await end_of(line, job) == "cancelled"
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["state"] == "cancelled"
    assert attempt["cost"] > 0
    assert attempt["input_tokens"] > 50


async def test_a_cancel_that_finds_it_ending_tells_the_workers_again(line: Line) -> None:
    rt = await line.worker()
    line.provider.hold()
    job = await line.submit(chain(llm("draft")))
    running = asyncio.ensure_future(run_step(rt, job, "draft"))
    await until(lambda: line.provider.open, "the call")
    assert await cancelled(line, job) is True  # nobody listens yet
    line.listening(rt)
    await asyncio.sleep(0.05)
    assert not running.done()
    await until(lambda: _told_again(line, job, running), "the call was stopped")
    assert await end_of(line, job) == "cancelled"


async def _told_again(line: Line, job: UUID, running: asyncio.Task[Outcome]) -> bool:
    assert await cancelled(line, job) is False
    return running.done()


@pytest.mark.parametrize("end", ["succeeded", "failed"])
async def test_another_end_stays(line: Line, end: str) -> None:
    rt = await line.worker()
    if end == "failed":
        line.provider.will(failing("provider_rejected"))
    job = await line.submit(chain(llm("draft")))
    await line.run_to_end(rt, job)
    assert await cancelled(line, job) == "already_finished"
    assert await end_of(line, job) == end


async def test_a_job_that_is_failing_cannot_be_cancelled_any_more(line: Line) -> None:
    rt = await line.worker()
    line.provider.hold()
    job = await line.submit(chain(parallel("both", llm("a"), llm("b"))))
    calls = [
        asyncio.ensure_future(run_step(rt, job, path)) for path in await line.queued(job)
    ]
    await until(lambda: len(line.provider.open) == 2, "both calls")
    line.provider.end(line.provider.calls[0], failing("provider_rejected"))
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert (await line.place.job_row(job))["ending"] == "failed"
    assert await cancelled(line, job) == "already_finished"
    line.provider.let_go()
    await asyncio.gather(*calls)
    assert await end_of(line, job) == "failed"


async def test_only_its_own_tenant_cancels_a_job(line: Line) -> None:
    job = await line.submit(chain(llm("draft")))
    assert await cancel(line.rt, "another", job) is None
    assert await cancel(line.rt, await owner(line, job), clock.uuid7()) is None
    assert (await line.place.job_row(job))["state"] == "active"


@pytest.mark.parametrize("after_ms", [0, 5, 10, 20, 30, 50, 100])
async def test_a_cancel_against_claims_and_finishes_leaves_one_end(
    line: Line, after_ms: int
) -> None:
    """Whoever is first wins, and all that was called for is in the bill."""
    rt = await line.worker()
    line.listening(rt)
    job = await line.submit(chain(parallel("all", *(llm(name) for name in "abcd"))))
    paths = await line.queued(job)

    async def hinted(n: int, path: str) -> object:
        await asyncio.sleep(n * 0.008)
        return await run_step(rt, job, path)

    async def said() -> bool | str | None:
        await asyncio.sleep(after_ms / 1000)
        return await cancelled(line, job)

    answer, *outcomes = await asyncio.gather(
        said(), *(hinted(*one) for one in enumerate(paths))
    )
    await until(lambda: _has_ended(line, job), "its end")
    end = await end_of(line, job)
    assert (answer, end) in ((True, "cancelled"), ("already_finished", "succeeded"))
    states = await line.states(job)
    assert set(states.values()) <= {"succeeded", "cancelled"}
    assert outcomes.count(Done()) >= list(states.values()).count("succeeded")
    billed = [a for path in paths for a in await line.place.attempts(key(job, path))]
    assert len(billed) >= len(line.provider.calls)
    assert {a["state"] for a in billed} <= {"succeeded", "cancelled"}
    assert len(line.ear.heard(facts.JobFinished)) == 1
    if end == "cancelled":
        assert await line.output(job) is None


async def _has_ended(line: Line, job: UUID) -> bool:
    return bool((await line.place.job_row(job))["state"] != "active")


async def test_a_retry_behind_a_cancels_back_ends_with_the_job(line: Line) -> None:
    """The call goes back to waiting after its job's steps were stopped, unlocked."""
    place = line.place
    (one,) = await place.submit()
    held = await place.claimed(one)
    async with line.ledger.transaction() as connection:
        job = await jobs.lock(connection, one.job)
        assert job is not None
        await connection.execute(
            "update jobs set ending = 'cancelled' where id = $1", one.job
        )
        await jobs.stop_unclaimed(connection, one.job)
        failed = Finish(held, "failed", PAID, failure=OVERLOADED)
        await steps.retry_later(line.ledger, failed, 60, "retry", "", spent=1)
        await jobs.end_if_settled(connection, job, "cancelled", None)
        assert await jobs.ended(connection, one.job) is None
    assert await place.state(one) == "waiting"
    assert one.job in await sweep.idle_endings(line.ledger)
    settled = await sweep.settle_ending(line.ledger, one.job)
    assert settled is not None
    assert settled.job_end == "cancelled"
    assert await place.state(one) == "cancelled"


async def test_a_step_that_cannot_be_called_does_not_fail_a_cancelled_job(
    line: Line,
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")), max_cost_usd=0.000001)
    assert await cancelled(line, job) is True
    assert not isinstance(await run_step(rt, job, "draft"), Dead)
    assert await end_of(line, job) == "cancelled"
    assert await line.place.letters(job) == []
