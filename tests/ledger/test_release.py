"""Rows 2, 3 and 14: the window, its order, and hints that got lost."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import pools, release, steps, workers
from llmgine_workers.ledger.records import CLASSES, Released, StepKey
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration

INTERACTIVE, NORMAL, BATCH = range(len(CLASSES))


async def held(place: Place, count: int, **more: Any) -> list[StepKey]:
    """Steps of as many jobs of one tenant, each a second younger than the one before."""
    more.setdefault("tenant", place.pool)
    now = clock.now().timestamp()
    keys = []
    for number in range(count):
        id_ = clock.uuid7(now - 3600 + number)
        keys += await place.submit(released=False, id=id_, **more)
    return keys


async def state_of(place: Place) -> pools.PoolState:
    return (await pools.states(place.ledger))[place.pool]


async def test_steps_are_released_by_class_and_then_by_the_age_of_their_job(
    place: Place,
) -> None:
    batch, normal, interactive = [
        await held(place, 3, priority=p) for p in (BATCH, NORMAL, INTERACTIVE)
    ]
    (late,) = await place.submit(released=False, priority=NORMAL, tenant=place.pool)
    assert await place.release() == [*interactive, *normal, late, *batch]


async def test_a_late_step_of_an_old_job_goes_before_a_new_job(place: Place) -> None:
    """So that chains finish before new ones start."""
    (old,) = await held(place, 1)
    await place.settle(await place.claimed(old))
    new = await held(place, 3)
    second = StepKey(old.job, "second")
    await place.rows(
        "insert into steps (job_id, path, kind, pool, tenant, class, state, "
        "max_attempts, timeout_s) values ($1, $2, 'llm', $3, $3, 1, 'queued', 5, 60)",
        old.job, second.path, place.pool,
    )  # fmt: skip
    assert await place.release() == [second, *new]


async def test_what_is_released_tells_the_broker_all_it_needs(place: Place) -> None:
    (key,) = await place.submit(released=False)
    released = await release.tick(place.ledger, place.pool, 2000, 2000)
    assert released == [Released(key, place.pool, "summarize", 0)]
    assert (await place.step_row(key))["released_at"] is not None


async def test_a_hundred_steps_are_published_for_whoever_comes_first(
    place: Place,
) -> None:
    keys = await held(place, 130)
    assert await place.release() == keys[:100]
    assert await place.release() == []
    assert (await state_of(place)).backlogged
    worker = await place.worker(slots=100)
    for key in keys[:2]:
        await place.claimed(key, worker)
    more = await place.release()
    assert len(more) >= 15, "98 slots are free, 98 are published"
    assert more == keys[100 : 100 + len(more)]


async def test_what_is_published_fills_free_slots_and_a_little_more(
    place: Place,
) -> None:
    """Who joins the queue waits for what is published; so it is no more than needed."""
    keys = await held(place, 150)
    for slots in (30, 40):
        await place.worker(slots=slots)
    await place.die(await place.worker(slots=500))
    left = await place.worker(slots=500)
    await workers.stop(place.ledger, left)
    assert await place.release() == keys[:80]
    state = await state_of(place)
    assert (state.live, state.slots, state.credit) == (2, 70, 80)


async def test_the_setting_bounds_the_window_whatever_the_slots_are(
    place: Place,
) -> None:
    keys = await held(place, 130)
    await place.worker(slots=1000)
    await place.worker(slots=1000)
    assert await place.release(window=120) == keys[:120]


async def test_no_more_is_published_than_the_gate_admits(place: Place) -> None:
    keys = await held(place, 5)
    assert await place.release(admitted=0) == []
    assert await place.release(admitted=2) == keys[:2]
    assert await place.release(admitted=2) == []
    assert await place.release() == keys[2:]


async def test_a_pool_is_backlogged_while_it_holds_steps(place: Place) -> None:
    await held(place, 1)
    await place.release(admitted=0)
    assert (await state_of(place)).backlogged
    await place.release()
    await place.release()
    assert not (await state_of(place)).backlogged


async def test_a_pool_is_backlogged_while_steps_of_it_wait_for_a_limit(
    place: Place,
) -> None:
    """A new one released past them would only find it used up."""
    limited, retried = await place.submit(), await place.submit()
    await steps.wait(place.ledger, retried[0], 60, "retry", "it failed")
    await place.release()
    assert not (await state_of(place)).backlogged
    await steps.wait(place.ledger, limited[0], 60, "limit", "it is used up")
    await place.release()
    assert (await state_of(place)).backlogged


async def test_two_schedulers_at_once_release_nothing_twice(place: Place) -> None:
    keys = await held(place, 60)
    found: list[StepKey] = []
    while len(found) < 60:
        ticks = await asyncio.gather(
            *(release.tick(place.ledger, place.pool, 2000, 2000) for _ in range(6))
        )
        for one in ticks:
            found += [released.key for released in one or []]
    assert sorted(found, key=lambda key: key.job) == keys


async def test_a_scheduler_leaves_a_tick_to_the_one_that_has_it(place: Place) -> None:
    await held(place, 1)
    async with place.ledger.transaction() as connection:
        assert await release.mine(connection, f"release {place.pool}")
        assert await release.tick(place.ledger, place.pool, 2000, 2000) is None
    assert len(await place.release()) == 1


async def test_a_step_taken_while_it_is_released_stays_with_its_worker(
    place: Place,
) -> None:
    for _ in range(10):
        (key,) = await place.submit(released=False)
        worker = await place.worker()
        await asyncio.gather(place.claim(key, worker), place.release())
        row = await place.step_row(key)
        assert (row["state"], row["worker"]) == ("running", worker)


async def test_what_the_broker_did_not_take_is_held_again(place: Place) -> None:
    queued, running = await place.submit(place.step("a"), place.step("b"))
    await place.claimed(running)
    taken = (await place.step_row(running))["released_at"]
    await steps.unrelease(
        place.ledger, [Released(key, place.pool, "", 0) for key in (queued, running)]
    )
    assert (await place.step_row(queued))["released_at"] is None
    assert (await place.step_row(running))["released_at"] == taken
    assert await place.release() == [queued]


async def forgotten(place: Place, *, queue_empty: bool) -> int:
    return await release.forget_lost_hints(
        place.ledger, place.pool, queue_empty=queue_empty
    )


async def test_an_old_hint_is_lost_when_the_queue_is_empty(place: Place) -> None:
    (old,), (young,) = await place.submit(), await place.submit()
    await place.age(31, old.job)
    await place.age(29, young.job)
    assert await forgotten(place, queue_empty=True) == 1
    assert await place.release() == [old]
    assert await forgotten(place, queue_empty=True) == 0


async def test_an_old_hint_is_lost_when_one_of_30_s_later_was_claimed(
    place: Place,
) -> None:
    (old,), (overtaker,) = await place.submit(), await place.submit()
    await place.claimed(overtaker)
    await place.age(90, old.job)
    await place.age(59, overtaker.job)
    assert await forgotten(place, queue_empty=False) == 1
    assert await place.release() == [old]


async def test_a_hint_in_a_slow_queue_is_not_lost(place: Place) -> None:
    """Nobody consumes for minutes: no hint is published again."""
    keys = await held(place, 20)
    assert await place.release() == keys
    await place.age(580, *(key.job for key in keys))
    await place.claimed(keys[0])
    assert await forgotten(place, queue_empty=False) == 0
    assert await place.release() == []


async def test_hints_of_another_pool_are_no_sign(place: Place) -> None:
    (old,) = await place.submit()
    other = Place(place.ledger)
    (claimed,) = await other.submit()
    await other.claimed(claimed)
    await place.age(90, old.job)
    assert await forgotten(place, queue_empty=False) == 0


async def test_a_claimed_step_never_counts_as_a_lost_hint(place: Place) -> None:
    (key,) = await place.submit()
    await place.claimed(key)
    await place.age(300, key.job)
    assert await forgotten(place, queue_empty=True) == 0


async def test_a_waiting_step_is_woken_when_it_is_due_and_not_before(
    place: Place,
) -> None:
    due, later = await place.submit(place.step("a"), place.step("b"))
    await steps.wait(place.ledger, due, 30, "limit", "used up")
    await steps.wait(place.ledger, later, 120, "limit", "used up")
    await release.wake(place.ledger)
    assert await place.state(due) == "waiting"
    await place.age(31, due.job)
    await release.wake(place.ledger)
    row = await place.step_row(due)
    assert (row["state"], row["released_at"], row["wake_at"]) == ("queued", None, None)
    assert (row["reason"], row["detail"], row["waiting_since"]) == (None, None, None)
    assert await place.state(later) == "waiting"
    assert await place.release() == [due]


async def test_the_order_does_not_depend_on_the_order_of_submits(place: Place) -> None:
    rng = random.Random(7)  # noqa: S311 - a shuffle that can be repeated
    now = clock.now().timestamp()
    ids = [(rng.randrange(3), clock.uuid7(now - 600 + n)) for n in range(40)]
    for priority, id_ in rng.sample(ids, len(ids)):
        await place.submit(released=False, id=id_, priority=priority, tenant="t")
    assert [key.job for key in await place.release()] == [id_ for _, id_ in sorted(ids)]
