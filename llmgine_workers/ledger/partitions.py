"""Day partitions: made ahead of time, dropped whole when their work is old.

UUIDv7 keys carry their milliseconds in the leading 48 bits, so a day is a range of
ids and a row finds its partition by its key alone.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.ledger.connection import Connection, Ledger

TABLES = (
    "batches", "jobs", "steps", "payloads", "attempts", "letters", "replays",
    "replay_letters", "webhooks",
)  # fmt: skip
_NO_QUEUE = "set local lock_timeout = '2s'"
"""Who waits for an exclusive lock holds up everybody behind; later will do."""

DAYS_AHEAD = 7
"""A week without a scheduler still finds every row a partition of its own."""


async def ensure(ledger: Ledger) -> None:
    """Make the partitions from yesterday to a week ahead; what exists stays."""
    today = clock.now().date()
    days = [today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)]
    async with ledger.transaction() as connection:
        await connection.execute(_NO_QUEUE)
        await connection.execute("select pg_advisory_xact_lock(hashtext('partitions'))")
        for table in TABLES:
            for day in days:
                await connection.execute(
                    f"create table if not exists {table}_{day:%Y%m%d} partition of "
                    f"{table} for values from ('{first_id(day)}') "
                    f"to ('{first_id(day + timedelta(days=1))}')"
                )


async def prune(ledger: Ledger, keep_s: float, keep_payloads_s: float) -> list[str]:
    """Drop what is older (seconds); a day with an unfinished job is left whole.

    Returns the names of the dropped partitions. Payloads go earlier than the rest.
    """
    dropped: list[str] = []
    payloads_s = min(keep_payloads_s, keep_s)
    async with ledger.transaction() as connection:
        await connection.execute(_NO_QUEUE)
        for day, names in (await _days(connection)).items():
            age = (clock.now() - _midnight(day + timedelta(days=1))).total_seconds()
            old = [
                name
                for name in names
                if age > (payloads_s if name.startswith("payloads") else keep_s)
            ]
            if old and await _all_ended(connection, day):
                dropped += old
        for name in dropped:
            await connection.execute(f"drop table if exists {name}")
        await connection.execute(
            "delete from idempotency i where created_at < now() - interval '24 hours' "
            "and not exists (select from jobs where id = i.job_id and state = 'active') "
            "and not exists (select from jobs where batch = i.batch and state = 'active')"
        )
        await connection.execute(
            "delete from workers where coalesce(dead_at, stopped_at) < "
            "now() - interval '1 day'"
        )
    return dropped


def first_id(day: date) -> UUID:
    """The lowest id that a UUIDv7 of that day (UTC) can have."""
    return UUID(int=int(_midnight(day).timestamp() * 1000) << 80)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def _days(connection: Connection) -> dict[date, list[str]]:
    rows = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits "
        "where inhparent = any($1::text[]::regclass[]) order by name",
        list(TABLES),
    )
    found: dict[date, list[str]] = {}
    for row in rows:
        day = datetime.strptime(row["name"].rpartition("_")[2], "%Y%m%d").date()
        found.setdefault(day, []).append(row["name"])
    return found


async def _all_ended(connection: Connection, day: date) -> bool:
    return not await connection.fetchval(
        "select exists (select from jobs where state = 'active' "
        "and id >= $1 and id < $2)",
        first_id(day),
        first_id(day + timedelta(days=1)),
    )
