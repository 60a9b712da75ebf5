"""The window: which queued steps the broker is told of, and when again."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import Released, StepKey

LEAST_WINDOW = 100
LOST_AFTER_S = 30
"""A hint this old is suspect; it counts as lost only with a sign beside its age."""

_RELEASE = """
with due as (
    select job_id, path from steps
    where pool = $1 and state = 'queued' and released_at is null
    order by class, job_id limit $2
    for update skip locked
)
update steps s set released_at = now()
from due, jobs j
where s.job_id = due.job_id and s.path = due.path and j.id = s.job_id
returning s.job_id, s.path, s.pool, j.chain_name, j.run, s.class
"""

_STATE = """
with live as (
    select count(*) as live, coalesce(sum(slots), 0) as slots from workers
    where pool = $1 and dead_at is null and stopped_at is null
), published as (
    select count(*) as n from steps
    where pool = $1 and state = 'queued' and released_at is not null
), held as (
    select exists (select from steps where pool = $1 and state = 'queued'
                   and released_at is null) as any
)
insert into pools as p (pool, live, slots, credit, backlogged)
select $1, live, slots,
       greatest(0, least($2, greatest($3, 2 * slots), $4) - published.n), held.any
from live, published, held
on conflict (pool) do update set live = excluded.live, slots = excluded.slots,
    credit = excluded.credit, backlogged = excluded.backlogged, ticked_at = now()
    where (p.live, p.slots, p.credit, p.backlogged) is distinct from
          (excluded.live, excluded.slots, excluded.credit, excluded.backlogged)
       or p.ticked_at < now() - interval '1 second'
"""

# Four lists and not one: each is exactly what a partial index holds, so that finished
# steps cost nothing.
_COUNT_LOAD = """
with unfinished as materialized (
    select tenant, pool, 'queued' as state, count(*) as n from steps
    where state = 'queued' and released_at is null group by tenant, pool
    union all
    select tenant, pool, 'queued', count(*) from steps
    where state = 'queued' and released_at is not null group by tenant, pool
    union all
    select tenant, pool, 'waiting', count(*) from steps
    where state = 'waiting' group by tenant, pool
    union all
    select tenant, pool, 'running', count(*) from steps
    where state = 'running' group by tenant, pool
), of_pools as (
    update pools set counted_at = now(), (queued, running, waiting) = (
        select coalesce(sum(n) filter (where state = 'queued'), 0),
               coalesce(sum(n) filter (where state = 'running'), 0),
               coalesce(sum(n) filter (where state = 'waiting'), 0)
        from unfinished where unfinished.pool = pools.pool)
)
insert into tenant_load select tenant, sum(n) from unfinished
where state in ('queued', 'waiting') group by tenant
"""

_LOST = """
update steps set released_at = null
where pool = $1 and state = 'queued'
  and released_at < now() - $2 * interval '1 second'
  and ($3 or released_at < (
      select max(released_at) from steps
      where pool = $1 and state = 'running'
        and started_at > now() - interval '5 minutes'
  ) - $2 * interval '1 second')
returning job_id
"""


@dataclass(frozen=True)
class PoolState:
    """What the scheduler saw of a pool at its last tick."""

    pool: str
    live: int
    slots: int
    credit: int
    backlogged: bool


async def tick(
    ledger: Ledger, pool: str, window: int, admitted: int
) -> list[Released] | None:
    """Row 2, for one pool: release up to its credit, in order of class and job age.

    At most `window` and what the gate `admitted` are published and unclaimed. None if
    another scheduler has this tick. Publish only after it has returned.
    """
    async with ledger.transaction() as connection:
        if not await mine(connection, f"release {pool}"):
            return None
        await connection.execute(_STATE, pool, window, LEAST_WINDOW, admitted)
        state = await _state(connection, pool)
        if not (state and state.backlogged and state.credit):
            return []
        rows = await connection.fetch(_RELEASE, pool, state.credit)
    rows.sort(key=lambda row: (row["class"], row["job_id"]))
    return [_released(row) for row in rows]


async def states(ledger: Ledger) -> dict[str, PoolState]:
    """All pools by name: one small table, for the caches of submit and finish."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select pool, live, slots, credit, backlogged from pools"
        )
    return {row["pool"]: PoolState(**row) for row in rows}


async def wake(ledger: Ledger) -> int:
    """Row 14: waiting steps whose time has come are queued and held."""
    async with ledger.transaction() as connection:
        if not await mine(connection, "wake"):
            return 0
        done = await connection.execute(
            "update steps set state = 'queued', released_at = null, wake_at = null, "
            "reason = null, detail = null, waiting_since = null "
            "where state = 'waiting' and wake_at <= now()"
        )
    return int(done.rpartition(" ")[2])


async def forget_lost_hints(ledger: Ledger, pool: str, *, queue_empty: bool) -> int:
    """Row 3: a hint is lost if it is old and the queue is empty, or if a step that
    was released so much later has been claimed already."""
    async with ledger.transaction() as connection:
        if not await mine(connection, f"lost {pool}"):
            return 0
        rows = await connection.fetch(_LOST, pool, LOST_AFTER_S, queue_empty)
    return len(rows)


async def count_load(ledger: Ledger) -> None:
    """Unfinished steps: per tenant for the cap at submit, per pool for people."""
    async with ledger.transaction() as connection:
        if await mine(connection, "load"):
            await connection.execute("delete from tenant_load")
            await connection.execute(_COUNT_LOAD)


async def mine(connection: Connection, duty: str) -> bool:
    """Whether this transaction has the duty; the lock goes with the transaction."""
    return bool(
        await connection.fetchval(
            "select pg_try_advisory_xact_lock(hashtext(current_schema()), hashtext($1))",
            duty,
        )
    )


async def _state(connection: Connection, pool: str) -> PoolState | None:
    row = await connection.fetchrow(
        "select pool, live, slots, credit, backlogged from pools where pool = $1", pool
    )
    return PoolState(**row) if row else None


def _released(row: asyncpg.Record) -> Released:
    key = StepKey(row["job_id"], row["path"])
    return Released(key, row["pool"], row["chain_name"], row["run"])
