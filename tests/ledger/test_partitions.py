"""Day partitions: there before they are needed, gone when their work is old."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import letters, partitions, submits
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.ledger.partitions import TABLES
from llmgine_workers.ledger.records import StepKey
from tests.ledger.rows import REJECTED, Place

pytestmark = pytest.mark.integration

DAY_S = 86400.0
KEEP_S, KEEP_PAYLOADS_S = 30 * DAY_S, 7 * DAY_S


@pytest.fixture(scope="module")
async def own_ledger(postgres_url: str) -> AsyncIterator[Ledger]:
    """Apart from the others: what is dropped here is dropped for everybody."""
    ledger = Ledger(postgres_url, "partitions_test")
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
def place(own_ledger: Ledger) -> Place:
    return Place(own_ledger)


def days_ago(days: int) -> date:
    return clock.now().date() - timedelta(days=days)


async def add_day(place: Place, day: date) -> None:
    async with place.ledger.transaction() as connection:
        for table in TABLES:
            await connection.execute(
                f"create table if not exists {table}_{day:%Y%m%d} partition of {table} "
                f"for values from ('{partitions.first_id(day)}') "
                f"to ('{partitions.first_id(day + timedelta(days=1))}')"
            )


async def old_job(place: Place, days: int) -> UUID:
    """A job of that many days ago, with a day of its own to live in."""
    day = days_ago(days)
    await add_day(place, day)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    job = clock.uuid7(noon.timestamp())
    await place.submit(id=job)
    return job


async def tables(place: Place, days: int) -> set[str]:
    """Which tables still have the day of so many days ago."""
    found = await place.rows(
        "select relname::text from pg_class "
        "where relnamespace = current_schema()::regnamespace and relkind = 'r'"
    )
    ending = f"_{days_ago(days):%Y%m%d}"
    names = {row["relname"] for row in found}
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}


async def test_a_week_of_days_is_there_ahead(place: Place) -> None:
    await partitions.ensure(place.ledger)
    for days in range(-partitions.DAYS_AHEAD, 2):
        assert await tables(place, days) == set(TABLES)


async def test_a_submit_makes_its_own_day_where_no_scheduler_did(place: Place) -> None:
    async with place.ledger.connection() as connection:
        for table in TABLES:
            await connection.execute(f"drop table {table}_{days_ago(0):%Y%m%d}")
    (key,) = await place.submit()
    assert await place.state(key) == "queued"
    assert await tables(place, 0) == set(TABLES)


async def test_days_of_ended_jobs_are_dropped_whole_and_payloads_before(
    place: Place,
) -> None:
    for days in (40, 20):
        job = await old_job(place, days)
        await place.end(job, "cancelled", None)
    kept = await old_job(place, 3)
    await place.end(kept, "cancelled", None)

    dropped = await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S)

    assert set(dropped) == {
        *(f"{table}_{days_ago(40):%Y%m%d}" for table in TABLES),
        f"payloads_{days_ago(20):%Y%m%d}",
    }
    assert await tables(place, 40) == set()
    assert await tables(place, 20) == set(TABLES) - {"payloads"}
    assert await tables(place, 3) == set(TABLES)
    assert await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S) == []


async def test_a_day_with_an_unfinished_job_stays_whole(place: Place) -> None:
    done, unfinished = await old_job(place, 50), await old_job(place, 50)
    await place.end(done, "cancelled", None)
    assert await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S) == []
    assert await tables(place, 50) == set(TABLES)
    assert await place.state(StepKey(unfinished, "draft")) == "queued"
    await place.end(unfinished, "cancelled", None)
    assert len(await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S)) == len(
        TABLES
    )


async def test_an_id_lies_in_the_day_it_was_made() -> None:
    day = date(2026, 11, 20)
    midnight = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
    first, next_first = (partitions.first_id(d) for d in (day, day + timedelta(days=1)))
    assert first <= clock.uuid7(midnight) < next_first
    assert first <= clock.uuid7(midnight + DAY_S - 0.001) < next_first
    assert clock.uuid7(midnight - 0.001) < first


async def test_pruning_forgets_old_keys_but_none_of_an_active_job(place: Place) -> None:
    tenant = f"t{uuid4().hex}"
    active, ended = place.job(tenant=tenant), place.job(tenant=tenant)
    for job in (active, ended):
        await submits.insert(
            place.ledger, submits.Submit(job, [False], (f"key {job.id}", b"hash"))
        )
    await place.end(ended.id, "cancelled", None)
    await place.rows(
        "update idempotency set created_at = now() - interval '25 hours' "
        "where tenant = $1",
        tenant,
    )
    await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S)
    found = await place.rows("select job_id from idempotency where tenant = $1", tenant)
    assert [row["job_id"] for row in found] == [active.id]


async def test_a_letter_outlives_its_jobs_payloads(place: Place) -> None:
    job = await old_job(place, 21)
    taken = await place.end(job, "failed", REJECTED)
    await partitions.prune(place.ledger, KEEP_S, KEEP_PAYLOADS_S)
    assert taken.letter
    assert await letters.found(place.ledger, taken.letter)
    assert "payloads" not in await tables(place, 21)
