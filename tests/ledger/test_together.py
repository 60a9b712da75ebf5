"""Many steps in one statement: each has its own answer, and nobody waits in a circle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.ledger import attempts, jobs, release, steps, sweep
from llmgine_workers.ledger.attempts import Closing, Opening
from llmgine_workers.ledger.records import Claim, Finish, StepKey
from tests.ledger.rows import OVERLOADED, PAID, Place

pytestmark = pytest.mark.integration


async def openings(
    place: Place, keys: Sequence[StepKey], worker: UUID | None = None
) -> list[Opening]:
    worker = worker or await place.worker()
    hinted = await steps.read(place.ledger, keys)
    return [
        Opening(one, worker, attempts.new_claim_id(), simulated=False, reserved=500)
        for one in hinted
        if one
    ]


async def several(place: Place, count: int) -> list[StepKey]:
    return [key for _ in range(count) for key in await place.submit()]


async def test_each_hint_is_answered_in_its_place(place: Place) -> None:
    first, second = await several(place, 2)
    missing = StepKey(first.job, "missing")
    found = await steps.read(place.ledger, [second, missing, first])
    assert [one and one.key for one in found] == [second, None, first]


async def test_steps_of_one_statement_are_claimed_each_for_itself(place: Place) -> None:
    a, taken, b, ended = await several(place, 4)
    await place.claimed(taken)
    wanted = await openings(place, [b, taken, a, ended])
    await place.end(ended.job, "cancelled", None)

    found = await attempts.claim(place.ledger, wanted)

    ids = [one.claim_id for one in wanted]
    assert found == [Claim(b, 1, ids[0], 1), None, Claim(a, 1, ids[2], 1), None]
    for key in (a, b):
        (attempt,) = await place.attempts(key)
        assert (attempt["state"], attempt["reserved"]) == ("started", 500)
    assert len(await place.attempts(taken)) == 1
    assert await place.attempts(ended) == []


async def test_workers_of_one_statement_are_judged_each_for_itself(place: Place) -> None:
    """A process that was declared dead goes on under a new id, in the same batch."""
    a, b = await several(place, 2)
    dead, reborn = await place.worker(), await place.worker()
    wanted = await openings(place, [a], dead) + await openings(place, [b], reborn)
    await place.die(dead)
    assert [c and c.key for c in await attempts.claim(place.ledger, wanted)] == [None, b]
    assert (await place.step_row(b))["worker"] == reborn


async def test_a_lost_answer_to_many_claims_is_found_again_by_their_ids(
    place: Place,
) -> None:
    wanted = await openings(place, await several(place, 3))
    first = await attempts.claim(place.ledger, wanted)
    assert all(first)
    assert await attempts.claim(place.ledger, wanted[::-1]) == first[::-1]
    assert first[1]
    await place.settle(first[1], output='"done"')
    assert await attempts.claim(place.ledger, wanted) == [first[0], None, first[2]]
    for one in wanted:
        assert len(await place.attempts(one.step.key)) == 1


@asynccontextmanager
async def locked_step(place: Place, key: StepKey, waiting: int) -> Any:
    """Hold a step's row until so many others wait for it."""
    async with place.ledger.transaction() as connection:
        await connection.execute(
            "select from steps where job_id = $1 and path = $2 for update",
            key.job, key.path,
        )  # fmt: skip
        me = await connection.fetchval("select pg_backend_pid()")
        yield
        async with asyncio.timeout(10):
            while await _waiting_behind(place, me) < waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def _waiting_behind(place: Place, pid: int) -> int:
    """Whoever waits for it, or for one who does."""
    (row,) = await place.rows(
        "with recursive behind as (select $1::int as pid union "
        "select a.pid from pg_stat_activity a join behind b "
        "on b.pid = any(pg_blocking_pids(a.pid))) select count(*) - 1 as n from behind",
        pid,
    )
    return int(row["n"])


async def test_two_workers_that_want_the_same_steps_do_not_lock_each_other_up(
    place: Place,
) -> None:
    keys = await several(place, 9)
    there = await openings(place, keys)
    back = await openings(place, keys[::-1])
    async with locked_step(place, keys[4], waiting=2):
        claims = [
            asyncio.create_task(attempts.claim(place.ledger, wanted))
            for wanted in (there, back)
        ]
    won, lost = await asyncio.gather(*claims)
    both = [(a, b) for a, b in zip(won, lost[::-1], strict=True)]
    assert all((a is None) != (b is None) for a, b in both), "each step is one's own"
    for key in keys:
        assert len(await place.attempts(key)) == 1


async def test_a_jobs_end_and_claims_of_its_steps_do_not_lock_each_other_up(
    place: Place,
) -> None:
    keys = await place.submit(*(place.step(f"s{n}") for n in range(9)))
    wanted = await openings(place, keys[::-1])
    async with locked_step(place, keys[4], waiting=2):
        claiming = asyncio.create_task(attempts.claim(place.ledger, wanted))
        ending = asyncio.create_task(
            sweep.end_job(place.ledger, keys[0].job, "cancelled", None)
        )
    claims, taken = await asyncio.gather(claiming, ending)
    assert taken
    won = [claim for claim in claims if claim]
    states = [await place.state(key) for key in keys]
    assert states.count("running") == len(won)
    assert states.count("cancelled") == len(keys) - len(won)


async def test_hints_that_count_as_lost_leave_alone_what_is_being_claimed(
    place: Place,
) -> None:
    first, second = await several(place, 2)
    await place.age(60, first.job, second.job)
    async with locked_step(place, first, waiting=0):
        lost = await release.forget_lost_hints(place.ledger, place.pool, queue_empty=True)
    assert lost == 1
    assert (await place.step_row(first))["released_at"] is not None
    assert (await place.step_row(second))["released_at"] is None


async def test_a_stale_fence_among_good_ones_writes_its_bill_alone(place: Place) -> None:
    a, stolen, b = await several(place, 3)
    first, second = await place.worker(), await place.worker()
    claims = [await place.claimed(key, first) for key in (a, stolen, b)]
    await place.rows(
        "update steps set state = 'queued', fence = 2 where job_id = $1", stolen.job
    )
    await place.claimed(stolen, second)

    async with place.ledger.transaction() as connection:
        assert len(await jobs.lock_all(connection, [k.job for k in (a, stolen, b)])) == 3
        settled = await steps.settle(
            connection,
            [(Finish(c, "succeeded", PAID, '"x"'), "succeeded") for c in claims],
        )

    assert settled == [True, False, True]
    assert [await place.state(key) for key in (a, stolen, b)] == [
        "succeeded",
        "running",
        "succeeded",
    ]
    for key in (a, stolen, b):
        assert (await place.attempts(key))[0]["cost"] == 120
    assert (await place.step_row(stolen))["worker"] == second


async def test_ends_of_one_statement_have_each_their_own_state(place: Place) -> None:
    good, bad = await several(place, 2)
    ends = [
        (
            Finish(await place.claimed(good), "succeeded", PAID, '"x"', "stop"),
            "succeeded",
        ),
        (Finish(await place.claimed(bad), "failed", PAID, failure=OVERLOADED), "failed"),
    ]
    async with place.ledger.transaction() as connection:
        await jobs.lock_all(connection, [good.job, bad.job])
        assert await steps.settle(connection, ends) == [True, True]
    fine, failed = await place.step_row(good), await place.step_row(bad)
    assert (fine["state"], fine["finish_reason"]) == ("succeeded", "stop")
    assert fine["failure"] is None
    assert (failed["state"], failed["failure"]) == ("failed", OVERLOADED.as_dict())
    outputs = await place.rows(
        "select job_id, body from payloads where kind = 'output' and job_id = any($1)",
        [good.job, bad.job],
    )
    assert outputs == [{"job_id": good.job, "body": '"x"'}]


async def test_attempts_are_closed_together(place: Place) -> None:
    keys = await several(place, 3)
    claims = [await place.claimed(key) for key in keys]
    closings = [Closing(claim, "failed", PAID, OVERLOADED) for claim in claims]
    assert await attempts.close(place.ledger, closings) == [None, None, None]
    for key in keys:
        (attempt,) = await place.attempts(key)
        assert (attempt["state"], attempt["cost"]) == ("failed", 120)
        assert attempt["failure"] == OVERLOADED.as_dict()
