"""Rows 15 and 16: a job is told to end, and ends with its last call, once."""

from __future__ import annotations

import asyncio

import pytest

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import jobs, steps, sweep
from llmgine_workers.ledger.records import Finish, StepKey
from tests.ledger.rows import OVERLOADED, PAID, REJECTED, Place

pytestmark = pytest.mark.integration

TIMED_OUT = Failure("job_timeout", "the job did not end within its timeout")


async def end_if_settled(place: Place, key: StepKey) -> None:
    """What a finish does last when the job is ending."""
    async with place.ledger.transaction() as connection:
        job = await jobs.lock(connection, key.job)
        assert job is not None
        assert job.ending is not None
        failure = await jobs.ending_failure(connection, key.job)
        await jobs.end_if_settled(connection, job, job.ending, failure)


@pytest.mark.parametrize(("end", "failure"), [("cancelled", None), ("failed", TIMED_OUT)])
async def test_a_job_without_a_running_call_ends_at_once(
    place: Place, end: str, failure: Failure | None
) -> None:
    queued, waiting, done = await place.submit(*map(place.step, ("a", "b", "c")))
    await steps.wait(place.ledger, waiting, 60, "limit", "used up")
    await place.settle(await place.claimed(done), output='"done"')

    taken = await place.end(queued.job, end, failure)

    assert taken.job_end == end
    states = [await place.state(key) for key in (queued, waiting, done)]
    assert states == ["cancelled", "cancelled", "succeeded"]
    job = await place.job_row(queued.job)
    assert (job["state"], job["ending"]) == (end, None)
    assert job["finished_at"] is not None
    found = await place.letters(queued.job)
    assert [letter["id"] for letter in found] == ([taken.letter] if failure else [])


async def test_a_job_with_a_running_call_ends_with_it(place: Place) -> None:
    queued, running = await place.submit(place.step("a"), place.step("b"))
    claim = await place.claimed(running)

    taken = await place.end(queued.job, "failed", TIMED_OUT)

    assert (taken.job_end, taken.letter) == (None, None)
    assert await place.state(queued) == "cancelled"
    assert await place.state(running) == "running"
    job = await place.job_row(queued.job)
    assert (job["state"], job["ending"]) == ("active", "failed")
    await place.settle(claim, "cancelled")
    await end_if_settled(place, running)
    job = await place.job_row(queued.job)
    assert (job["state"], job["ending"]) == ("failed", None)
    (letter,) = await place.letters(queued.job)
    assert letter["error"]["code"] == "job_timeout"


async def test_a_job_ends_once_whoever_is_first(place: Place) -> None:
    (key,) = await place.submit()
    found = await asyncio.gather(
        *(sweep.end_job(place.ledger, key.job, "failed", TIMED_OUT) for _ in range(5)),
        *(sweep.end_job(place.ledger, key.job, "cancelled", None) for _ in range(5)),
    )
    (taken,) = [one for one in found if one]
    job = await place.job_row(key.job)
    assert job["state"] == taken.job_end
    assert len(await place.letters(key.job)) == (taken.job_end == "failed")


async def test_the_first_decision_stands(place: Place) -> None:
    (key,) = await place.submit()
    await place.claimed(key)
    await place.end(key.job, "cancelled", None)
    assert await sweep.end_job(place.ledger, key.job, "failed", TIMED_OUT) is None
    assert (await place.job_row(key.job))["ending"] == "cancelled"


async def test_an_ended_job_and_no_job_at_all_are_not_ended_again(place: Place) -> None:
    (key,) = await place.submit()
    await place.end(key.job, "cancelled", None)
    assert await sweep.end_job(place.ledger, key.job, "failed", TIMED_OUT) is None
    missing = place.job().id
    assert await sweep.end_job(place.ledger, missing, "cancelled", None) is None


async def test_a_job_expires_at_its_time_out_and_not_before(place: Place) -> None:
    (late,), (soon,), (ending,) = [await place.submit() for _ in range(3)]
    await place.claimed(ending)
    await place.end(ending.job, "cancelled", None)
    await place.age(601, late.job, ending.job)
    await place.age(599, soon.job)
    found = await sweep.expired_jobs(place.ledger)
    assert late.job in found
    assert not {soon.job, ending.job} & set(found)


async def test_a_retry_behind_the_back_of_an_ending_job_leaves_it_not_stuck(
    place: Place,
) -> None:
    """Retries do not lock the job, so one may come to wait after the end's decision."""
    (key,) = await place.submit()
    claim = await place.claimed(key)
    await place.end(key.job, "failed", TIMED_OUT)
    finish = Finish(claim, "failed", PAID, failure=OVERLOADED)
    await steps.retry_later(place.ledger, finish, 8, "retry", "overloaded", spent=1)
    assert await place.state(key) == "waiting"

    assert key.job in await sweep.idle_endings(place.ledger)
    taken = await sweep.settle_ending(place.ledger, key.job)

    assert taken is not None
    assert taken.job_end == "failed"
    assert await place.state(key) == "cancelled"
    assert [letter["id"] for letter in await place.letters(key.job)] == [taken.letter]
    assert await sweep.settle_ending(place.ledger, key.job) is None
    assert key.job not in await sweep.idle_endings(place.ledger)


async def test_what_is_given_back_to_an_ending_job_leaves_it_not_stuck(
    place: Place,
) -> None:
    (key,) = await place.submit()
    claim = await place.claimed(key)
    await place.end(key.job, "cancelled", None)
    await steps.give_back(place.ledger, [claim], "ambiguous")
    assert key.job in await sweep.idle_endings(place.ledger)
    taken = await sweep.settle_ending(place.ledger, key.job)
    assert taken is not None
    assert (taken.job_end, taken.letter) == ("cancelled", None)
    assert await place.state(key) == "cancelled"


async def test_a_job_whose_call_is_running_is_not_idle(place: Place) -> None:
    (key,) = await place.submit()
    await place.claimed(key)
    await place.end(key.job, "cancelled", None)
    assert key.job not in await sweep.idle_endings(place.ledger)
    taken = await sweep.settle_ending(place.ledger, key.job)
    assert taken is not None
    assert taken.job_end is None
    assert await place.state(key) == "running"


async def test_a_letter_names_every_step_that_failed(place: Place) -> None:
    a, b = await place.submit(place.step("sides.pro"), place.step("sides.con"))
    claims = [await place.claimed(key) for key in (a, b)]
    failures = [REJECTED.at(key.path, 1, exhausted=False) for key in (a, b)]
    for claim, failure in zip(claims, failures, strict=True):
        await place.settle(claim, "failed", failure=failure)
    letter = await place.lock_and_end(a.job, failures[0])

    (row,) = await place.letters(a.job)
    assert row["id"] == letter
    assert (row["step"], row["pool"], row["run"]) == ("sides.pro", place.pool, 0)
    assert (row["chain"], row["state"], row["cost"]) == ("summarize", "open", 240)
    assert row["error"]["code"] == "provider_rejected"
    assert "sides.con" in row["error"]["message"]
