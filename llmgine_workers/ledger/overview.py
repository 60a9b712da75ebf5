"""What an operator sees first: each pool's steps and workers, and the open letters."""

from __future__ import annotations

from dataclasses import dataclass

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
