"""Rows 4 to 6 and 20: who may call, and whose word counts afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import attempts, history, jobs, steps, workers
from llmgine_workers.ledger.attempts import Opening
from llmgine_workers.ledger.records import Claim, Finish, StepKey
from tests.ledger.rows import OVERLOADED, PAID, Place

pytestmark = pytest.mark.integration


async def test_a_claim_opens_its_attempt_in_the_same_statement(place: Place) -> None:
    (key,) = await place.submit(place.step(timeout_s=90.0))
    worker = await place.worker()
    claim_id = attempts.new_claim_id()

    claim = await place.claim(key, worker, claim_id, reserved=700)

    assert claim == Claim(key, 1, claim_id, 1)
    row = await place.step_row(key)
    assert (row["state"], row["worker"], row["claim_id"]) == ("running", worker, claim_id)
    assert (row["call_deadline"] - row["started_at"]).total_seconds() == 90
    (attempt,) = await place.attempts(key)
    assert attempt["id"] == claim_id
    assert attempt["state"] == "started"
    assert (attempt["fence"], attempt["reserved"], attempt["run"]) == (1, 700, 0)
    assert attempt["worker"] == worker


async def test_twenty_claimers_at_once_make_one_call(place: Place) -> None:
    (key,) = await place.submit()
    claimers = [await place.worker() for _ in range(20)]
    found = await asyncio.gather(*(place.claim(key, one) for one in claimers))
    assert len([claim for claim in found if claim]) == 1
    assert len(await place.attempts(key)) == 1
    assert (await place.step_row(key))["fence"] == 1


async def test_a_claim_whose_answer_was_lost_is_found_again_by_its_id(
    place: Place,
) -> None:
    (key,) = await place.submit()
    worker, claim_id = await place.worker(), attempts.new_claim_id()
    first = await place.claim(key, worker, claim_id)
    again = await place.claim(key, worker, claim_id)
    assert first is not None
    assert again == first
    assert len(await place.attempts(key)) == 1


async def test_a_lost_claim_is_not_found_again_once_it_was_taken_back(
    place: Place,
) -> None:
    (key,) = await place.submit()
    worker, claim_id = await place.worker(), attempts.new_claim_id()
    await place.claim(key, worker, claim_id)
    await place.die(worker)
    await place.take_back(worker)
    assert await place.claim(key, worker, claim_id) is None


async def _running(place: Place, key: StepKey) -> None:
    await place.claimed(key)


async def _waiting(place: Place, key: StepKey) -> None:
    await steps.wait(place.ledger, key, 60, "limit", "used up")


async def _ending(place: Place, key: StepKey) -> None:
    await place.claimed(StepKey(key.job, "other"))
    await place.end(key.job, "cancelled", None)


async def _ended(place: Place, key: StepKey) -> None:
    await place.end(key.job, "cancelled", None)


async def _expired(place: Place, key: StepKey) -> None:
    await place.age(601, key.job)


async def _settled(place: Place, key: StepKey) -> None:
    assert await place.settle(await place.claimed(key), output='"done"')


@pytest.mark.parametrize(
    "happens", [_running, _waiting, _ending, _ended, _expired, _settled]
)
async def test_nothing_but_a_queued_step_of_a_living_job_can_be_claimed(
    place: Place, happens: Callable[[Place, StepKey], Awaitable[None]]
) -> None:
    key, _ = await place.submit(place.step(), place.step("other"))
    await happens(place, key)
    before = await place.step_row(key)
    hinted = await place.hinted(key)
    assert hinted is not None
    assert not hinted.runnable
    assert await place.claim(key, await place.worker()) is None
    assert await place.step_row(key) == before


async def test_a_step_that_is_only_held_may_be_claimed(place: Place) -> None:
    (key,) = await place.submit(released=False)
    assert await place.claim(key, await place.worker()) is not None


async def test_a_step_that_moved_to_another_pool_is_not_claimed(place: Place) -> None:
    (key,) = await place.submit()
    hinted = await place.hinted(key)
    assert hinted is not None
    await place.rows("update steps set pool = 'moved' where job_id = $1", key.job)
    wanted = Opening(hinted, await place.worker(), clock.uuid7(), False, 0)
    assert await attempts.claim(place.ledger, [wanted]) == [None]


async def test_a_worker_that_is_declared_dead_claims_nothing(place: Place) -> None:
    (key,) = await place.submit()
    worker = await place.worker()
    await place.die(worker)
    assert await place.claim(key, worker) is None
    assert await place.state(key) == "queued"


async def test_a_worker_that_never_registered_claims_nothing(place: Place) -> None:
    (key,) = await place.submit()
    assert await place.claim(key, clock.uuid7()) is None


async def test_a_hint_to_nothing_finds_nothing(place: Place) -> None:
    assert await place.hinted(StepKey(clock.uuid7(), "draft")) is None
    (key,) = await place.submit()
    assert await place.hinted(StepKey(key.job, "missing")) is None


async def test_a_refused_step_waits_with_its_reason(place: Place) -> None:
    (key,) = await place.submit()
    await steps.wait(place.ledger, key, 30, "limit", "openai/* is used up")
    row = await place.step_row(key)
    assert (row["state"], row["reason"]) == ("waiting", "limit")
    assert row["detail"] == "openai/* is used up"
    assert (row["wake_at"] - row["waiting_since"]).total_seconds() == 30
    assert row["tries"] == 0
    assert await place.attempts(key) == []


async def test_a_refusal_that_comes_late_does_not_stop_anothers_call(
    place: Place,
) -> None:
    (key,) = await place.submit()
    await place.claimed(key)
    await steps.wait(place.ledger, key, 30, "limit", "used up")
    assert await place.state(key) == "running"


async def test_a_transient_error_closes_its_attempt_and_waits(place: Place) -> None:
    (key,) = await place.submit()
    claim = await place.claimed(key)
    finish = Finish(claim, "failed", PAID, failure=OVERLOADED)
    await steps.retry_later(place.ledger, finish, 8, "retry", "overloaded", spent=2)
    row = await place.step_row(key)
    assert (row["state"], row["reason"], row["tries"]) == ("waiting", "retry", 2)
    assert row["worker"] is None
    assert (row["wake_at"] - row["waiting_since"]).total_seconds() == 8
    (attempt,) = await place.attempts(key)
    assert attempt["state"] == "failed"
    assert attempt["failure"]["code"] == "provider_overloaded"
    assert attempt["cost"] == 120


async def test_a_further_call_in_place_is_an_attempt_of_its_own(place: Place) -> None:
    (key,) = await place.submit()
    claim = await place.claimed(key)
    again = await next_attempt(place, claim)
    assert again is not None
    assert (again.n, again.fence) == (2, claim.fence)
    assert [a["n"] for a in await place.attempts(key)] == [1, 2]


async def test_a_further_call_whose_answer_was_lost_is_one_attempt(place: Place) -> None:
    (key,) = await place.submit()
    claim, attempt = await place.claimed(key), clock.uuid7()
    first = await next_attempt(place, claim, attempt)
    again = await next_attempt(place, claim, attempt)
    assert first == again
    assert len(await place.attempts(key)) == 2


async def test_after_the_step_was_taken_back_there_is_no_further_call(
    place: Place,
) -> None:
    (key,) = await place.submit()
    worker = await place.worker()
    claim = await place.claimed(key, worker)
    await place.die(worker)
    await place.take_back(worker)
    assert await next_attempt(place, claim) is None
    assert len(await place.attempts(key)) == 1


async def next_attempt(
    place: Place, claim: Claim, attempt: UUID | None = None
) -> Claim | None:
    hinted = await place.hinted(claim.key)
    assert hinted is not None
    wanted = Opening(hinted, clock.uuid7(), attempt or clock.uuid7(), False, 500)
    return await attempts.next_attempt(place.ledger, claim, wanted)


async def test_a_stale_fence_writes_its_bill_and_nothing_else(place: Place) -> None:
    (key,) = await place.submit()
    first, second = await place.worker(), await place.worker()
    zombie = await place.claimed(key, first)
    await place.die(first)
    await place.take_back(first)
    owner = await place.claimed(key, second)

    assert not await place.settle(zombie, output='"of the zombie"')

    row = await place.step_row(key)
    assert (row["state"], row["worker"], row["fence"]) == ("running", second, owner.fence)
    old, new = await place.attempts(key)
    assert (old["cost"], old["output_tokens"]) == (120, 8)
    assert old["state"] == "ambiguous", "the bill must go on saying that it was doubled"
    assert new["state"] == "started"
    assert await place.settle(owner, output='"of the owner"')
    async with place.ledger.connection() as connection:
        past = await history.read(connection, [key.job], with_costs=[key.job])
    assert past[key.job].ended["draft"] == ("succeeded", '"of the owner"', None, 620)


async def test_a_zombies_transient_error_changes_no_state(place: Place) -> None:
    (key,) = await place.submit()
    first, second = await place.worker(), await place.worker()
    zombie = await place.claimed(key, first)
    await place.die(first)
    await place.take_back(first)
    await place.claimed(key, second)
    finish = Finish(zombie, "failed", PAID, failure=OVERLOADED)
    await steps.retry_later(place.ledger, finish, 8, "retry", "overloaded", spent=1)
    row = await place.step_row(key)
    assert (row["state"], row["tries"]) == ("running", 0)
    assert (await place.attempts(key))[0]["cost"] == 120


async def test_a_commit_whose_answer_was_lost_is_known_as_ours(place: Place) -> None:
    (key,) = await place.submit()
    claim = await place.claimed(key)
    assert await place.settle(claim, output='"once"')
    assert not await place.settle(claim, output='"once"')
    async with place.ledger.connection() as connection:
        later = Claim(key, claim.fence + 1, claim.attempt, 1)
        assert await steps.were_settled(connection, [later, claim]) == {claim}


async def test_what_is_given_back_is_queued_and_held_without_a_crash(
    place: Place,
) -> None:
    keys = await place.submit(place.step("a"), place.step("b"))
    worker = await place.worker()
    claims = [await place.claimed(key, worker) for key in keys]
    await steps.give_back(place.ledger, claims, "ambiguous")
    for key in keys:
        row = await place.step_row(key)
        assert (row["state"], row["released_at"]) == ("queued", None)
        assert (row["crashes"], row["tries"], row["fence"]) == (0, 0, 2)
        (attempt,) = await place.attempts(key)
        assert attempt["state"] == "ambiguous"
        assert attempt["reserved"] == 500
        assert attempt["cost"] is None


async def test_giving_back_late_takes_nothing_from_the_next_owner(place: Place) -> None:
    (key,) = await place.submit()
    first = await place.worker()
    zombie = await place.claimed(key, first)
    await place.die(first)
    await place.take_back(first)
    owner = await place.claimed(key)
    await steps.give_back(place.ledger, [zombie], "cancelled")
    assert (await place.step_row(key))["fence"] == owner.fence
    assert [a["state"] for a in await place.attempts(key)] == ["ambiguous", "started"]


async def test_a_worker_hears_what_it_is_thought_to_run(place: Place) -> None:
    mine, ending = await place.submit(), await place.submit()
    worker, other = await place.worker(), await place.worker()
    held = [await place.claimed(key, worker) for key in (*mine, *ending)]
    await place.end(ending[0].job, "cancelled", None)
    async with place.ledger.connection() as connection:
        pulse = await workers.beat(connection, worker)
        idle = await workers.beat(connection, other)
    assert not pulse.dead
    assert pulse.live_workers == 2
    assert {(one.key, one.fence, one.job_ending) for one in pulse.running} == {
        (held[0].key, 1, False),
        (held[1].key, 1, True),
    }
    assert idle.running == ()


async def test_a_beat_tells_a_worker_its_own_death(place: Place) -> None:
    worker, other = await place.worker(), await place.worker()
    await place.die(worker)
    async with place.ledger.connection() as connection:
        assert (await workers.beat(connection, worker)).dead
        assert (await workers.beat(connection, clock.uuid7())).dead
        pulse = await workers.beat(connection, other)
    assert not pulse.dead
    assert pulse.live_workers == 1


async def test_nobody_is_declared_dead_who_has_beaten_since(place: Place) -> None:
    worker = await place.worker()
    async with place.ledger.connection() as connection:
        await workers.beat(connection, worker)
    assert not await workers.declare_dead(place.ledger, worker, 0)
    assert await workers.declare_dead(place.ledger, worker, 1)
    assert not await workers.declare_dead(place.ledger, worker, 1)


async def test_a_claim_and_the_end_of_its_job_at_once_leave_no_call_unseen(
    place: Place,
) -> None:
    """Whichever is first: the job ends with no call, or waits for the one it knows."""
    for _ in range(20):
        (key,) = await place.submit()
        worker = await place.worker()
        claim, taken = await asyncio.gather(
            place.claim(key, worker), place.end(key.job, "cancelled", None)
        )
        job = await place.job_row(key.job)
        if claim:
            assert taken.job_end is None
            assert (job["state"], job["ending"]) == ("active", "cancelled")
            assert await place.state(key) == "running"
        else:
            assert taken.job_end == job["state"] == "cancelled"
            assert await place.state(key) == "cancelled"


async def test_the_lock_of_a_job_is_what_two_finishes_wait_for(place: Place) -> None:
    (key,) = await place.submit()
    order: list[str] = []
    locked = asyncio.Event()

    async def first() -> None:
        async with place.ledger.transaction() as connection:
            await jobs.lock(connection, key.job)
            locked.set()
            await connection.fetchval("select pg_sleep(0.1)")
            order.append("first")

    async def second() -> None:
        await locked.wait()
        await place.locked(key.job)
        order.append("second")

    await asyncio.gather(first(), second())
    assert order == ["first", "second"]
