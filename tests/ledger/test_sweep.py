"""Row 12: steps of lost workers are taken back, and who is to blame for a crash."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from llmgine_workers.ledger import sweep, workers
from llmgine_workers.ledger.records import Claim, StepKey
from llmgine_workers.ledger.sweep import OVERRUN_S
from tests.ledger.rows import REJECTED, Place

pytestmark = pytest.mark.integration


async def crash(place: Place, key: StepKey, times: int) -> None:
    """Let that many workers die of a step."""
    for _ in range(times):
        worker = await place.worker()
        await place.claimed(key, worker)
        await place.die(worker)
        await place.take_back(worker)


async def running(place: Place, worker: UUID, *paths: str) -> list[Claim]:
    keys = await place.submit(*(place.step(path) for path in paths))
    return [await place.claimed(key, worker) for key in keys]


async def test_a_dead_workers_step_is_queued_and_held_again(place: Place) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await place.die(worker)

    (taken,) = await place.take_back(worker)

    assert (taken.key, taken.state, taken.job_end) == (claim.key, "queued", None)
    row = await place.step_row(claim.key)
    assert (row["state"], row["released_at"], row["worker"]) == ("queued", None, None)
    assert (row["fence"], row["crashes"], row["tries"]) == (2, 1, 0)
    (attempt,) = await place.attempts(claim.key)
    assert (attempt["state"], attempt["reserved"]) == ("ambiguous", 500)
    assert attempt["finished_at"] is not None


async def test_a_living_worker_keeps_its_steps(place: Place) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await place.age(60 + OVERRUN_S - 1, claim.key.job)
    assert await place.lost(worker) == []


async def test_a_call_past_its_deadline_is_taken_from_a_living_worker(
    place: Place,
) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await place.age(60 + OVERRUN_S + 1, claim.key.job)
    assert [taken.key for taken in await place.take_back(worker)] == [claim.key]
    row = await place.step_row(claim.key)
    assert (row["state"], row["crashes"]) == ("queued", 1)


async def test_what_a_stopped_worker_left_behind_is_taken_too(place: Place) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await workers.stop(place.ledger, worker)
    assert [taken.key for taken in await place.take_back(worker)] == [claim.key]


async def test_a_claim_that_commits_after_its_workers_death_is_still_found(
    place: Place,
) -> None:
    worker = await place.worker()
    (early,) = await running(place, worker, "early")
    late = await place.submit(place.step("late"))
    await place.die(worker)
    assert len(await place.take_back(worker)) == 1
    await place.rows(
        "update steps set state = 'running', worker = $2, fence = 1, calls = 1, "
        "claim_id = $3 where job_id = $1",
        late[0].job, worker, early.attempt,
    )  # fmt: skip
    assert [taken.key for taken in await place.take_back(worker)] == late


async def test_two_schedulers_take_a_step_back_once(place: Place) -> None:
    worker = await place.worker()
    await running(place, worker, "draft")
    await place.die(worker)
    (lost,) = await place.lost(worker)
    found = await asyncio.gather(*(sweep.take_back(place.ledger, lost) for _ in range(6)))
    assert len([taken for taken in found if taken]) == 1
    assert (await place.step_row(lost.key))["crashes"] == 1


async def test_a_worker_that_was_quicker_keeps_its_result(place: Place) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await place.die(worker)
    (lost,) = await place.lost(worker)
    assert await place.settle(claim, output='"here"')
    assert await sweep.take_back(place.ledger, lost) is None
    assert await place.state(claim.key) == "succeeded"
    assert [a["state"] for a in await place.attempts(claim.key)] == ["succeeded"]


async def test_every_step_of_a_dead_process_counts_a_crash(place: Place) -> None:
    worker = await place.worker()
    await running(place, worker, "a", "b", "c")
    await place.die(worker)
    assert {lost.key.path: lost.crashes_now for lost in await place.lost(worker)} == {
        "a": 1,
        "b": 1,
        "c": 1,
    }


async def test_suspects_alone_take_the_blame(place: Place) -> None:
    """So that one poisonous step cannot take a thousand innocents with it."""
    innocent, once, suspect = await place.submit(*map(place.step, ("a", "b", "c")))
    await crash(place, once, 1)
    await crash(place, suspect, 2)
    worker = await place.worker()
    for key in (innocent, once, suspect):
        await place.claimed(key, worker)
    await place.die(worker)

    lost = await place.lost(worker)

    assert {one.key.path: one.crashes_now for one in lost} == {"a": 0, "b": 1, "c": 3}
    assert lost[-1].key == suspect, "a sweep that stops half-way must not blame the rest"
    await place.take_back(worker)
    assert (await place.step_row(innocent))["crashes"] == 0
    assert (await place.step_row(suspect))["crashes"] == 3


async def test_a_suspect_of_another_process_excuses_nobody(place: Place) -> None:
    innocent, suspect = await place.submit(*map(place.step, ("a", "b")))
    await crash(place, suspect, 2)
    worker, other = await place.worker(), await place.worker()
    await place.claimed(innocent, worker)
    await place.claimed(suspect, other)
    await place.die(worker)
    (lost,) = await place.lost(worker)
    assert lost.crashes_now == 1
    assert await place.lost(other) == []


async def test_the_sweep_gives_a_step_up_only_if_its_worker_was_not_quicker(
    place: Place,
) -> None:
    worker = await place.worker()
    (claim,) = await running(place, worker, "draft")
    await place.die(worker)
    (lost,) = await place.lost(worker)
    async with place.ledger.transaction() as connection:
        assert await sweep.give_up(connection, lost, "failed", REJECTED)
        assert not await sweep.give_up(connection, lost, "failed", REJECTED)
    row = await place.step_row(claim.key)
    assert (row["state"], row["failure"]["code"]) == ("failed", REJECTED.code)
    assert [a["state"] for a in await place.attempts(claim.key)] == ["ambiguous"]


async def test_a_lost_step_of_an_ending_job_is_cancelled_and_the_job_ends(
    place: Place,
) -> None:
    worker = await place.worker()
    a, b = await running(place, worker, "a", "b")
    assert (await place.end(a.key.job, "failed", REJECTED)).job_end is None
    await place.die(worker)

    first, last = await place.take_back(worker)

    assert (first.state, first.job_end, first.letter) == ("cancelled", None, None)
    assert (last.state, last.job_end) == ("cancelled", "failed")
    assert {await place.state(a.key), await place.state(b.key)} == {"cancelled"}
    assert [letter["id"] for letter in await place.letters(a.key.job)] == [last.letter]
