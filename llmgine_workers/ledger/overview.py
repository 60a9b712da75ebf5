"""What an operator sees first: each pool's steps and workers, and the open letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.ledger.connection import Ledger

_POOLS = """
with counts as (
    select pool,
        count(*) filter (where state = 'queued') as queued,
        count(*) filter (where state = 'running') as running,
        count(*) filter (where state = 'waiting') as waiting,
        count(*) filter (where state = 'queued' and released_at is not null) as published
    from steps where state in ('queued', 'running', 'waiting') group by pool
), live as (
    select pool, count(*) as workers, sum(slots) as slots from workers
    where dead_at is null and stopped_at is null group by pool
), names as (select pool from counts union select pool from live union
             select pool from pools)
select pool, coalesce(queued, 0) as queued, coalesce(running, 0) as running,
       coalesce(waiting, 0) as waiting, coalesce(published, 0) as published,
       coalesce(workers, 0) as workers, coalesce(slots, 0) as slots
from names left join counts using (pool) left join live using (pool) order by pool
"""


_SEEN = """
select pool, live as workers, slots, credit, backlogged, queued, running, waiting, oldest,
       ticked_at, counted_at, paused_at, paused_reason, now() as at
from pools order by pool
"""


@dataclass(frozen=True)
class PoolSeen:
    """One pool as the scheduler saw it: at `ticked_at`, its steps at `counted_at`.

    `at` is the ledger's time, to tell how long ago that was; `paused_at` is since when
    nobody may call, by a person's word. `oldest` is the oldest job with a queued step.
    """

    pool: str
    workers: int
    slots: int
    credit: int
    backlogged: bool
    queued: int
    running: int
    waiting: int
    ticked_at: datetime
    counted_at: datetime | None
    at: datetime
    oldest: UUID | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None


@dataclass(frozen=True)
class PoolLoad:
    """One pool: its unfinished steps by state, and the workers that beat.

    `published` of the queued steps are released to the broker's window.
    """

    pool: str
    queued: int
    running: int
    waiting: int
    published: int
    workers: int
    slots: int


def waits_s(seen: PoolSeen) -> float:
    """Seconds since the oldest job with a queued step was made; 0 without one."""
    if seen.oldest is None:
        return 0.0
    return max(0.0, (seen.at - clock.made_at(seen.oldest)).total_seconds())


async def pools_seen(ledger: Ledger) -> dict[str, PoolSeen]:
    """Every pool by name, from one small table: for each request that asks."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_SEEN)
    return {row["pool"]: PoolSeen(**row) for row in rows}


async def pool_loads(ledger: Ledger) -> list[PoolLoad]:
    """Every pool by name. Counts unfinished steps: for a person, not for each request."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_POOLS)
    return [PoolLoad(**row) for row in rows]


async def open_letters(ledger: Ledger) -> int:
    """How many dead letters are open."""
    async with ledger.connection() as connection:
        found = await connection.fetchval(
            "select count(*) from letters where state = 'open'"
        )
    return int(found)
