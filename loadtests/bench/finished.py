"""A ledger full of finished jobs beside an empty one, and the drop of a day."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from llmgine_workers.ledger import partitions
from llmgine_workers.ledger.connection import Ledger
from loadtests.bench.client import generator, prompts
from loadtests.bench.contest import started
from loadtests.bench.drains import drain, steady, until_finished
from loadtests.bench.growth import SLOTS
from loadtests.bench.systems import Ours, bench_site
from loadtests.site import Site

DAYS = 6
"""The finished jobs are spread over so many days, today among them; payloads would not
be kept longer than seven."""

COPIED_BYTES = 60
"""Of the prompt of the job that is copied: ten million of them must fit on a disk."""

KEYS = {"jobs": "id", "steps": "job_id", "payloads": "job_id", "attempts": "job_id"}
"""What a one-step job leaves in the ledger, and each table's leading key."""

# A UUIDv7 whose first 48 bits are the milliseconds, the rest a running number.
_ID = """
(lpad(to_hex($2::bigint + number * $3::bigint / $4::bigint), 12, '0') || '7'
 || lpad(to_hex(number & 4095), 3, '0') || '8' || lpad(to_hex(number), 15, '0'))::uuid
"""


async def finished(folder: Path, *, rows: int, jobs: int) -> dict[str, Any]:
    """The same load on an empty, a full and an emptied ledger, one after the other."""
    site = bench_site(folder)
    try:
        found = [{"finished": 0, **await _load(site, jobs)}]
        seeded_s = await _seed(site, rows)
        found.append({"finished": rows, **await _load(site, jobs)})
        size = await site.query("select pg_database_size(current_database()) / 1e9")
        drop_s = await _drop_oldest(site)
        await site.query("truncate jobs, steps, payloads, attempts")
        found.append({"finished": 0, **await _load(site, jobs)})
        return {
            "loads": found,
            "seeded_s": round(seeded_s, 1),
            "gigabytes": round(float(size[0][0]), 2),
            "jobs_in_dropped_day": rows // DAYS,
            "drop_s": round(drop_s, 3),
        }
    finally:
        site.stop()


async def _load(site: Site, jobs: int) -> dict[str, Any]:
    ours = Ours(site)
    async with started(ours, SLOTS):
        drained = await drain(ours, site, jobs, stream=False)
        dispatched = await steady(ours, site, per_s=50, seconds=5)
        async with generator(ours) as load:  # the newest job, of which copies are made
            await load.at_once(prompts(1, seed=1, size=COPIED_BYTES), stream=False)
        await until_finished(ours, 1)
    print(
        f"{drained['jobs_per_s']} jobs/s, {drained['cpu_ms_per_job']} ms of CPU, "
        f"PostgreSQL {drained['store_cpu_ms_per_job']['PostgreSQL']} ms",
        flush=True,
    )
    return {"drain": drained, "steady": dispatched}


async def _seed(site: Site, rows: int) -> float:
    """Copies of one real job, evenly over the last days."""
    begun, today = time.monotonic(), datetime.now(UTC).date()
    connection = await asyncpg.connect(site.postgres.url)
    try:
        await connection.execute("set search_path to llmgine")
        await connection.execute("set synchronous_commit to off")
        template = await connection.fetchval(
            "select id from jobs where state = 'succeeded' order by id desc limit 1"
        )
        for back in range(DAYS):
            day = today - timedelta(days=back)
            await _make_partitions(connection, day)
            await _copy(connection, template, day, rows // DAYS)
        await connection.execute("analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()
    return time.monotonic() - begun


async def _make_partitions(
    connection: asyncpg.Connection[asyncpg.Record], day: Any
) -> None:
    first, last = (partitions.first_id(day + timedelta(days=n)) for n in (0, 1))
    for table in KEYS:
        await connection.execute(
            f"create table if not exists {table}_{day:%Y%m%d} partition of {table} "
            f"for values from ('{first}') to ('{last}')"
        )


async def _copy(
    connection: asyncpg.Connection[asyncpg.Record], template: Any, day: Any, rows: int
) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    span = min(timedelta(days=1), datetime.now(UTC) - midnight)
    first_ms, span_ms = int(midnight.timestamp() * 1000), int(span.total_seconds() * 1000)
    for table, key in KEYS.items():
        columns = await connection.fetchval(
            "select array_agg(attname::text order by attnum) from pg_attribute "
            "where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
            table,
        )
        values = ", ".join(_ID if one == key else f"t.{one}" for one in columns)
        await connection.execute(
            f"insert into {table} ({', '.join(columns)}) select {values} "  # noqa: S608
            f"from (select * from {table} where {key} = $1) t, "
            "generate_series(1, $4::bigint) series(number)",
            template, first_ms, span_ms - 1, rows, timeout=1800,
        )  # fmt: skip


async def _drop_oldest(site: Site) -> float:
    """What the scheduler does once a day, for the oldest of the days."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    oldest_ended = midnight - timedelta(days=DAYS - 2)
    keep_s = (now - oldest_ended).total_seconds() - 1
    ledger = Ledger(site.postgres.url, "llmgine", connections=1)
    try:
        begun = time.monotonic()
        dropped = await partitions.prune(ledger, keep_s, keep_s)
        took = time.monotonic() - begun
    finally:
        await ledger.close()
    assert len(dropped) == len(KEYS), dropped
    return took
