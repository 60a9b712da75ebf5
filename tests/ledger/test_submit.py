"""Row 1: one transaction, and one job for one idempotency key."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import history, jobs, release, steps
from llmgine_workers.ledger.idempotency import KeyTaken
from llmgine_workers.ledger.records import StepKey
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration

HASH, OTHER_HASH = b"one body", b"another body"


async def test_a_submit_writes_job_steps_and_payloads_together(place: Place) -> None:
    job = place.job(
        place.step("a"), place.step("b"), inputs='{"text": "x"}', skipped=(("c", "map"),)
    )
    await jobs.insert(place.ledger, job, [True, False], None)

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
        await jobs.insert(place.ledger, job, [True, True], ("key", HASH))
    for table, column in (("jobs", "id"), ("steps", "job_id"), ("payloads", "job_id")):
        assert await place.rows(f"select from {table} where {column} = $1", job.id) == []
    again = replace(job, steps=job.steps[:1])
    await jobs.insert(place.ledger, again, [True], ("key", HASH))


async def submitted(place: Place, tenant: str, key: str, body_hash: bytes) -> UUID:
    """The job that a request with this key gets, whoever made it."""
    job = place.job(tenant=tenant)
    try:
        await jobs.insert(place.ledger, job, [False], (key, body_hash))
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


async def test_another_body_is_told_the_first_ones_hash(place: Place) -> None:
    tenant = place.job().tenant
    first = await submitted(place, tenant, "order-17", HASH)
    with pytest.raises(KeyTaken) as taken:
        await jobs.insert(
            place.ledger, place.job(tenant=tenant), [False], ("order-17", OTHER_HASH)
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
    assert await jobs.queued_of(place.ledger, tenant) == 0
    waiting, running, _ = await place.submit(
        place.step("a"), place.step("b"), place.step("c"), tenant=tenant
    )
    await steps.wait(place.ledger, waiting, 60, "limit", "")
    await place.claimed(running)
    assert await jobs.queued_of(place.ledger, tenant) == 0
    await release.count_load(place.ledger)
    assert await jobs.queued_of(place.ledger, tenant) == 2
    await place.end(running.job, "cancelled", None)
    await release.count_load(place.ledger)
    assert await jobs.queued_of(place.ledger, tenant) == 0


async def test_the_id_of_a_job_says_when_it_came() -> None:
    earlier, later = clock.uuid7(1_000.0), clock.uuid7(1_000.001)
    assert earlier < later
    assert clock.moment_of(later).timestamp() == 1_000.001
