"""Row 6's budget: room is reserved with the claim and never given out twice."""

from __future__ import annotations

import asyncio

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import attempts, steps
from llmgine_workers.ledger.attempts import Closing, NoRoom, Opening
from llmgine_workers.ledger.records import Billed, Claim, StepKey
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration


async def claimed_all(
    place: Place, keys: list[StepKey], reserved: int
) -> tuple[list[Claim], list[NoRoom]]:
    worker = await place.worker()
    found = await asyncio.gather(
        *(place.claim(key, worker, reserved=reserved) for key in keys),
        return_exceptions=True,
    )
    unexpected = [f for f in found if not isinstance(f, Claim | NoRoom)]
    assert unexpected == []
    return (
        [f for f in found if isinstance(f, Claim)],
        [f for f in found if isinstance(f, NoRoom)],
    )


async def wide_job(place: Place, width: int, max_cost: int | None) -> list[StepKey]:
    return await place.submit(
        *(place.step(f"s{n}") for n in range(width)), max_cost=max_cost
    )


async def test_calls_at_once_never_reserve_more_than_the_budget(place: Place) -> None:
    keys = await wide_job(place, 12, 1000)
    claims, refused = await claimed_all(place, keys, 300)
    assert (len(claims), len(refused)) == (3, 9)
    reserved = [a["reserved"] for c in claims for a in await place.attempts(c.key)]
    assert sum(reserved) == 900
    assert all(no_room.calling for no_room in refused)


async def test_what_a_call_did_not_use_is_room_again(place: Place) -> None:
    first, second, third = await wide_job(place, 3, 1000)
    worker = await place.worker()
    claim = await place.claim(first, worker, reserved=900)
    assert claim
    with pytest.raises(NoRoom):
        await place.claim(second, worker, reserved=200)
    await place.settle(claim, output='"x"', billed=Billed(cost=100))
    assert await place.claim(second, worker, reserved=900)
    with pytest.raises(NoRoom) as no_room:
        await place.claim(third, worker, reserved=1)
    assert no_room.value.calling == 1


async def test_no_room_and_nobody_calling_means_that_waiting_is_no_use(
    place: Place,
) -> None:
    first, second = await wide_job(place, 2, 1000)
    claim = await place.claimed(first)
    await place.settle(claim, output='"x"', billed=Billed(cost=950))
    with pytest.raises(NoRoom) as no_room:
        await place.claim(second, await place.worker(), reserved=51)
    assert no_room.value.calling == 0
    assert await place.claim(second, await place.worker(), reserved=50)


async def test_a_crashed_calls_reservation_stays_spent(place: Place) -> None:
    (key,) = await wide_job(place, 1, 1000)
    worker, next_worker = await place.worker(), await place.worker()
    assert await place.claim(key, worker, reserved=600)
    await place.die(worker)
    await place.take_back(worker)
    with pytest.raises(NoRoom) as no_room:
        await place.claim(key, next_worker, reserved=600)
    assert no_room.value.calling == 0
    assert await place.claim(key, next_worker, reserved=400)


async def test_a_zombies_bill_does_not_free_what_it_reserved(place: Place) -> None:
    (key,) = await wide_job(place, 1, 1000)
    worker = await place.worker()
    zombie = await place.claim(key, worker, reserved=600)
    assert zombie
    await place.die(worker)
    await place.take_back(worker)
    await place.settle(zombie, billed=Billed(cost=10))
    with pytest.raises(NoRoom):
        await place.claim(key, await place.worker(), reserved=600)


async def test_a_call_that_was_never_sent_frees_its_reservation(place: Place) -> None:
    (key,) = await wide_job(place, 1, 1000)
    claim = await place.claim(key, await place.worker(), reserved=900)
    assert claim
    await steps.give_back(place.ledger, [claim], "cancelled")
    assert await place.claim(key, await place.worker(), reserved=900)


async def test_a_claim_repeated_after_a_lost_answer_needs_no_room_again(
    place: Place,
) -> None:
    (key,) = await wide_job(place, 1, 1000)
    worker, claim_id = await place.worker(), clock.uuid7()
    first = await place.claim(key, worker, claim_id, reserved=900)
    assert await place.claim(key, worker, claim_id, reserved=900) == first


async def test_a_further_call_in_place_needs_room_of_its_own(place: Place) -> None:
    first, second = await wide_job(place, 2, 1000)
    worker = await place.worker()
    claim = await place.claim(first, worker, reserved=600)
    assert claim
    await attempts.close(place.ledger, [Closing(claim, "failed", Billed(cost=0), None)])
    assert await place.claim(second, worker, reserved=600)

    hinted = await place.hinted(first)
    assert hinted
    with pytest.raises(NoRoom):
        await attempts.next_attempt(
            place.ledger, claim, Opening(hinted, worker, clock.uuid7(), False, 600)
        )


async def test_a_replay_has_its_budget_anew(place: Place) -> None:
    (key,) = await wide_job(place, 1, 1000)
    await place.settle(await place.claimed(key), "failed", billed=Billed(cost=1000))
    await place.rows("update jobs set run = 1, state = 'active' where id = $1", key.job)
    await place.rows("update steps set state = 'queued' where job_id = $1", key.job)
    assert await place.claim(key, await place.worker(), reserved=1000)


async def test_a_job_without_a_budget_has_room_for_all(place: Place) -> None:
    keys = await wide_job(place, 6, None)
    claims, refused = await claimed_all(place, keys, 10**12)
    assert (len(claims), refused) == (6, [])
