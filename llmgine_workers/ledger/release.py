"""The window: which queued steps the broker is told of, and when again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import asyncpg

from llmgine_workers.ledger import pools
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.fairness import Counted, Gate, Head, Queue, take_turns
from llmgine_workers.ledger.records import CLASSES, Released, StepKey

LOST_AFTER_S = 30
"""A hint this old is suspect; it counts as lost only with a sign beside its age."""

RING = 128
"""Tenants whose turns are compared at one look."""

LOOKS = 8
"""Looks of one tick, over all classes; what is left waits for the next tick."""

# A backlog is only ever entered by its index, planned once. By the planner's guess, a
# day whose statistics are old is read whole, ten times a second (5 s were measured).
_BY_INDEX = """
set local enable_seqscan = off; set local enable_bitmapscan = off;
set local enable_sort = off; set local enable_hashagg = off;
set local enable_hashjoin = off; set local enable_mergejoin = off;
set local plan_cache_mode = force_generic_plan
"""

# Jumps from tenant to tenant in the index of held steps, around the ring once.
_RING = """
with recursive behind as (
    (select tenant, 1 as n from steps
     where pool = $1 and class = $2 and state = 'queued' and released_at is null
       and tenant > $3 order by tenant limit 1)
    union all
    select (select s.tenant from steps s
            where s.pool = $1 and s.class = $2 and s.state = 'queued'
              and s.released_at is null and s.tenant > behind.tenant
            order by s.tenant limit 1), n + 1
    from behind where n < $4 and behind.tenant is not null
)
select tenant from behind where tenant is not null
"""

_HEADS = """
select s.job_id as job, s.path, s.tenant, s.class as priority, s.model,
       s.tokens_in, s.tokens_out
from unnest($3::text[]) with ordinality as ring (tenant, place)
cross join lateral (
    select * from steps
    where pool = $1 and class = $2 and tenant = ring.tenant
      and state = 'queued' and released_at is null
    order by job_id limit $4
) s
order by ring.place
"""

_PUBLISHED = """
select job_id as job, path, tenant, class as priority, model, tokens_in, tokens_out
from steps where pool = any($1) and state = 'queued' and released_at is not null
"""

_LEFT = """
select tenant, tokens from deficits
where pool = $1 and class = $2 and tenant = any($3)
"""

_KEEP_LEFT = """
with left_over as (
    select * from unnest($3::text[], $4::float8[]) as l (tenant, tokens)
), gone as (
    delete from deficits d using left_over l
    where d.pool = $1 and d.class = $2 and d.tenant = l.tenant and l.tokens = 0
)
insert into deficits (pool, class, tenant, tokens)
select $1, $2, tenant, tokens from left_over where tokens <> 0
on conflict (pool, class, tenant) do update set tokens = excluded.tokens
"""

# What is asked of the locked rows is written so that no partial index looks fit for it.
_RELEASE = """
with due as (
    select s.job_id, s.path
    from unnest($1::uuid[], $2::text[]) as chosen (job_id, path)
    cross join lateral (
        select * from steps where job_id = chosen.job_id and path = chosen.path
        for update skip locked
    ) s
    where s.state || '' = 'queued' and coalesce(s.released_at, 'infinity') = 'infinity'
)
update steps s set released_at = now()
from due, jobs j
where s.job_id = due.job_id and s.path = due.path and j.id = s.job_id
returning s.job_id, s.path, s.pool, j.chain_name, j.run
"""

# Four lists and not one: each is exactly what a partial index holds, so that finished
# steps cost nothing.
_COUNT_LOAD = """
with unfinished as materialized (
    select tenant, pool, 'queued' as state, count(*) as n, min(job_id::text) as oldest
    from steps
    where state = 'queued' and released_at is null group by tenant, pool
    union all
    select tenant, pool, 'queued', count(*), min(job_id::text) from steps
    where state = 'queued' and released_at is not null group by tenant, pool
    union all
    select tenant, pool, 'waiting', count(*), null from steps
    where state = 'waiting' group by tenant, pool
    union all
    select tenant, pool, 'running', count(*), null from steps
    where state = 'running' group by tenant, pool
), of_pools as (
    update pools set counted_at = now(), (queued, running, waiting, oldest) = (
        select coalesce(sum(n) filter (where state = 'queued'), 0),
               coalesce(sum(n) filter (where state = 'running'), 0),
               coalesce(sum(n) filter (where state = 'waiting'), 0),
               min(oldest)::uuid
        from unfinished where unfinished.pool = pools.pool)
)
insert into tenant_load select tenant, sum(n) from unfinished
where state in ('queued', 'waiting') group by tenant
"""

# Whom somebody has locked is being claimed, so its hint is not lost.
_LOST = """
with lost as materialized (
    select job_id, path from steps
    where pool = $1 and state = 'queued'
      and released_at < now() - $2 * interval '1 second'
      and ($3 or released_at < (
          select max(released_at) from steps
          where pool = $1 and state = 'running'
            and started_at > now() - interval '5 minutes'
      ) - $2 * interval '1 second')
    for update skip locked
)
update steps s set released_at = null
from lost where s.job_id = lost.job_id and s.path = lost.path
returning s.job_id
"""


async def tick(
    ledger: Ledger,
    pool: str,
    window: int,
    admitted: int,
    gate: Gate | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Released] | None:
    """Row 2, for one pool: release what its workers take soon, in fair order.

    By class; in a class the tenants take turns by weight (1 where none is named); of a
    tenant the oldest job goes first. Of that goes what the `gate` takes (by default so
    many steps as are `admitted`), what is published and unclaimed counted in, here and
    in the pools beside it that the gate names.
    None if another scheduler has this tick. Publish only after it has returned.
    """
    async with ledger.transaction() as connection:
        if not await mine(connection, f"release {pool}"):
            return None
        await connection.execute(_BY_INDEX)
        seen = await pools.see(connection, pool)
        credit = seen.credit(window, admitted)
        released: list[Released] = []
        if seen.held and credit:
            at = _Tick(connection, pool, seen.turns, weights or {})
            released = await at.release(credit, gate or Counted(admitted))
        await pools.keep(connection, pool, seen, credit, len(released))
    return released


class _Tick:
    """One tick of one pool, inside its transaction. It moves `turns` on."""

    def __init__(
        self,
        connection: Connection,
        pool: str,
        turns: list[str],
        weights: Mapping[str, float],
    ) -> None:
        self._connection = connection
        self._pool = pool
        self._turns = turns
        self._weights = weights
        self._looks = LOOKS

    async def release(self, credit: int, gate: Gate) -> list[Released]:
        """Class by class, until nothing is left of the credit, or of what may go."""
        rows = await self._connection.fetch(_PUBLISHED, [self._pool, *gate.beside])
        published = [Head(**row) for row in rows]
        await gate.look(sorted({one.tenant for one in published}))
        for one in published:
            gate.take(one)
        released: list[Released] = []
        for priority in range(len(CLASSES)):
            while len(released) < credit and self._looks:
                self._looks -= 1
                some = await self._look(priority, credit - len(released), gate)
                if not some:
                    break
                released += some
        return released

    async def _look(self, priority: int, credit: int, gate: Gate) -> list[Released]:
        ring = await self._ring(priority, min(RING, max(8, credit)))
        if not ring:
            return []
        await gate.look(ring)
        queues = await self._queues(priority, ring, credit)
        found = take_turns(queues, credit, gate.take)
        await self._connection.execute(
            _KEEP_LEFT, self._pool, priority, list(found.left), list(found.left.values())
        )
        self._turns[priority] = found.last or self._turns[priority]
        return await self._released(found.chosen)

    async def _ring(self, priority: int, at_most: int) -> list[str]:
        """The tenants with held steps, from the one behind the last turn on."""
        ring: list[str] = []
        for behind in dict.fromkeys((self._turns[priority], "")):
            if len(ring) < at_most:
                rows = await self._connection.fetch(
                    _RING, self._pool, priority, behind, at_most - len(ring)
                )
                ring += [row["tenant"] for row in rows]
        return list(dict.fromkeys(ring))

    async def _queues(
        self, priority: int, ring: Sequence[str], credit: int
    ) -> list[Queue]:
        depth = 1 + 2 * credit // len(ring)
        heads: dict[str, list[Head]] = defaultdict(list)
        for head in await self._fetch(_HEADS, priority, ring, depth):
            heads[head.tenant].append(head)
        rows = await self._connection.fetch(_LEFT, self._pool, priority, ring)
        left = {row["tenant"]: row["tokens"] for row in rows}
        return [
            Queue(
                tenant,
                self._weights.get(tenant, 1.0),
                left.get(tenant, 0.0),
                heads[tenant],
                len(heads[tenant]) < depth,
            )
            for tenant in ring
        ]

    async def _released(self, chosen: Sequence[Head]) -> list[Released]:
        rows = await self._connection.fetch(
            _RELEASE, [one.job for one in chosen], [one.path for one in chosen]
        )
        order = {(one.job, one.path): n for n, one in enumerate(chosen)}
        rows.sort(key=lambda row: order[row["job_id"], row["path"]])
        return [_released(row) for row in rows]

    async def _fetch(self, sql: str, *more: object) -> list[Head]:
        rows = await self._connection.fetch(sql, self._pool, *more)
        return [Head(**row) for row in rows]


async def wake(ledger: Ledger) -> int:
    """Row 14: waiting steps whose time has come are queued and held."""
    async with ledger.transaction() as connection:
        if not await mine(connection, "wake"):
            return 0
        done = await connection.execute(
            "update steps set state = 'queued', released_at = null, wake_at = null, "
            "reason = null, detail = null, waiting_since = null "
            "where state = 'waiting' and wake_at <= now() and kind <> 'wait'"
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


def _released(row: asyncpg.Record) -> Released:
    key = StepKey(row["job_id"], row["path"])
    return Released(key, row["pool"], row["chain_name"], row["run"])
