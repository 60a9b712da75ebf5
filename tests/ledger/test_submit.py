"""Row 1: one transaction, and one job for one idempotency key."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import history, idempotency, jobs, release, steps
from llmgine_workers.ledger.idempotency import KeyTaken
from llmgine_workers.ledger.records import StepKey
from llmgine_workers.ledger.submits import (
    Batch,
    Submit,
    insert,
    insert_batch,
    insert_each,
)
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration

HASH, OTHER_HASH = b"one body", b"another body"


async def test_a_submit_writes_job_steps_and_payloads_together(place: Place) -> None:
    job = place.job(
        place.step("a"), place.step("b"), inputs='{"text": "x"}', skipped=(("c", "map"),)
    )
    await insert(place.ledger, Submit(job, [True, False]))

    row = await place.job_row(job.id)
    assert (row["state"], row["ending"], row["run"]) == ("active", None, 0)
    assert (row["expires_at"] - row["created_at"]).total_seconds() == 600
    a, b, c = [await place.step_row(StepKey(job.id, path)) for path in "abc"]
    assert (a["state"], a["released_at"] is None) == ("queued", False)
    assert (b["state"], b["released_at"] is None) == ("queued", True)
    assert (c["state"], c["kind"]) == ("skipped", "map")
    async with place.ledger.connection() as connection:
        past = (await history.read(connection, [job.id], with_costs=()))[job.id]
    assert past.inputs == '{"text": "x"}'
    assert past.known == {"a", "b", "c"}
    hinted = await place.hinted(StepKey(job.id, "a"))
    assert hinted is not None
    assert hinted.request == '{"messages": []}'


async def test_a_submit_that_fails_in_the_middle_leaves_nothing(place: Place) -> None:
    job = place.job(place.step("a"), place.step("a"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(place.ledger, Submit(job, [True, True], ("key", HASH)))
    for table, column in (("jobs", "id"), ("steps", "job_id"), ("payloads", "job_id")):
        assert await place.rows(f"select from {table} where {column} = $1", job.id) == []
    again = replace(job, steps=job.steps[:1])
    await insert(place.ledger, Submit(again, [True], ("key", HASH)))


async def submitted(place: Place, tenant: str, key: str, body_hash: bytes) -> UUID:
    """The job that a request with this key gets, whoever made it."""
    job = place.job(tenant=tenant)
    try:
        await insert(place.ledger, Submit(job, [False], (key, body_hash)))
    except KeyTaken as taken:
        return taken.made
    return job.id


async def test_fifty_requests_at_once_with_one_key_make_one_job(place: Place) -> None:
    tenant = place.job().tenant
    found = await asyncio.gather(
        *(submitted(place, tenant, "order-17", HASH) for _ in range(50))
    )
    assert len(set(found)) == 1
    rows = await place.rows("select id from jobs where tenant = $1", tenant)
    assert [row["id"] for row in rows] == found[:1]


async def test_many_submits_go_into_one_transaction_and_one_taken_key_stops_no_other(
    place: Place,
) -> None:
    """The same moment of all says that it was one."""
    tenant = place.job().tenant
    await submitted(place, tenant, "taken", HASH)
    several = [
        Submit(place.job(place.step("a"), place.step("b")), [True, False]),
        Submit(place.job(tenant=tenant), [False], ("taken", HASH)),
        Submit(place.job(tenant=tenant, skipped=(("c", "tool"),)), [True], ("new", HASH)),
        Submit(place.job(tenant=tenant), [True], ("new", OTHER_HASH)),
        Submit(place.job(), [True]),
    ]
    moments = await insert_each(place.ledger, several)
    assert [moment is None for moment in moments] == [False, True, False, True, False]
    made = [one.job.id for one, moment in zip(several, moments, strict=True) if moment]
    rows = await place.rows("select * from jobs where id = any($1)", made)
    assert {row["created_at"] for row in rows} == {moments[0]}
    assert len(rows) == 3
    for one in (several[1], several[3]):
        for table, column in (
            ("jobs", "id"),
            ("steps", "job_id"),
            ("payloads", "job_id"),
        ):
            select = f"select from {table} where {column} = $1"
            assert await place.rows(select, one.job.id) == []
    a = await place.step_row(StepKey(made[0], "a"))
    b = await place.step_row(StepKey(made[0], "b"))
    c = await place.step_row(StepKey(made[1], "c"))
    assert (a["released_at"] is None, b["released_at"] is None) == (False, True)
    assert (c["state"], c["finished_at"] is None) == ("skipped", False)
    with pytest.raises(KeyTaken) as taken:
        await insert(place.ledger, several[3])
    assert (taken.value.made, taken.value.body_hash) == (made[1], HASH)


async def test_a_key_that_is_about_to_be_taken_holds_up_no_other_submit(
    place: Place,
) -> None:
    tenant = place.job().tenant
    first = place.job(tenant=tenant)
    key = idempotency.Key(tenant, "slow", HASH)
    async with place.ledger.transaction() as connection:
        await idempotency.take(connection, key, first.id, is_batch=False)
        slow = Submit(place.job(tenant=tenant), [True], ("slow", HASH))
        quick = Submit(place.job(tenant=tenant), [True], ("quick", HASH))
        refused, made = await insert_each(place.ledger, [slow, quick])
        assert (refused, made is None) == (None, False)
        waiting = asyncio.ensure_future(insert(place.ledger, slow))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done, "it waits for the first to be decided"
    with pytest.raises(KeyTaken) as taken:
        await waiting
    assert taken.value.made == first.id


async def test_jobs_of_a_batch_are_made_at_one_moment(place: Place) -> None:
    tenant = place.job().tenant
    batch = clock.uuid7()
    jobs_of_it = [place.job(tenant=tenant, batch=batch) for _ in range(3)]
    at = await insert_batch(
        place.ledger, Batch(batch, tenant, jobs_of_it, [True] * 3), None
    )
    rows = await place.rows("select * from jobs where batch = $1", batch)
    assert {row["created_at"] for row in rows} == {at}
    assert len(rows) == 3


async def test_another_body_is_told_the_first_ones_hash(place: Place) -> None:
    tenant = place.job().tenant
    first = await submitted(place, tenant, "order-17", HASH)
    with pytest.raises(KeyTaken) as taken:
        await insert(
            place.ledger,
            Submit(place.job(tenant=tenant), [False], ("order-17", OTHER_HASH)),
        )
    assert taken.value.made == first
    assert taken.value.body_hash == HASH


async def test_a_key_is_a_tenants_own(place: Place) -> None:
    mine = await submitted(place, place.job().tenant, "order-17", HASH)
    theirs = await submitted(place, place.job().tenant, "order-17", HASH)
    assert mine != theirs


@pytest.mark.parametrize(
    ("hours", "ended", "kept"),
    [(23, True, True), (25, False, True), (25, True, False)],
    ids=["a day", "until the job ends", "no longer"],
)
async def test_a_key_is_kept_for_a_day_and_until_its_job_ends(
    place: Place, hours: int, ended: bool, kept: bool
) -> None:
    tenant = place.job().tenant
    first = await submitted(place, tenant, "order-17", HASH)
    await place.rows(
        "update idempotency set created_at = now() - $2 * interval '1 hour' "
        "where tenant = $1",
        tenant,
        hours,
    )
    if ended:
        await place.end(first, "cancelled", None)
    second = await submitted(place, tenant, "order-17", HASH)
    assert (second == first) == kept
    assert await submitted(place, tenant, "order-17", HASH) == second


async def test_an_expired_key_that_many_take_at_once_makes_one_job(place: Place) -> None:
    tenant = place.job().tenant
    first = await submitted(place, tenant, "order-17", HASH)
    await place.end(first, "cancelled", None)
    await place.rows(
        "update idempotency set created_at = now() - interval '2 days' where tenant = $1",
        tenant,
    )
    found = await asyncio.gather(
        *(submitted(place, tenant, "order-17", HASH) for _ in range(10))
    )
    assert len(set(found)) == 1
    assert first not in found


async def test_the_load_of_a_tenant_is_what_the_scheduler_last_counted(
    place: Place,
) -> None:
    tenant = place.job().tenant
    assert await jobs.queued_each(place.ledger, [tenant]) == [0]
    waiting, running, _ = await place.submit(
        place.step("a"), place.step("b"), place.step("c"), tenant=tenant
    )
    await steps.wait(place.ledger, waiting, 60, "limit", "")
    await place.claimed(running)
    assert await jobs.queued_each(place.ledger, [tenant]) == [0]
    await release.count_load(place.ledger)
    assert await jobs.queued_each(place.ledger, [tenant]) == [2]
    await place.end(running.job, "cancelled", None)
    await release.count_load(place.ledger)
    assert await jobs.queued_each(place.ledger, [tenant]) == [0]


async def test_the_id_of_a_job_says_when_it_came() -> None:
    earlier, later = clock.uuid7(1_000.0), clock.uuid7(1_000.001)
    assert earlier < later
    assert clock.moment_of(later).timestamp() == 1_000.001
