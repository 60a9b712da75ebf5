"""Pools: what the scheduler saw of each at its last tick, and whether one is paused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from llmgine_workers.ledger.connection import Connection, Ledger

LEAST_WINDOW = 100
"""Published steps of a pool that no worker serves yet."""

LEAST_AHEAD = 5
AHEAD_OF_SLOTS = 0.15
AHEAD_S = 0.3
"""How much is published beyond what free slots take at once: what is taken in so many
seconds, at least this share of the slots. The scheduler comes by every 0.1 s; whoever
joins the queue waits for what is published before it."""

_SMOOTH = 0.3
_STALE_S = 2.0
"""A rate is an average of late ticks; a gap in them says nothing about it."""

_SEEN = """
with live as (
    select count(*) as live, coalesce(sum(slots), 0)::int as slots from workers
    where pool = $1 and dead_at is null and stopped_at is null
), running as (
    select count(*) as n from workers w join steps s on s.worker = w.id
    where w.pool = $1 and w.dead_at is null and w.stopped_at is null
      and s.state = 'running'
), published as (
    select count(*) as n from steps
    where pool = $1 and state = 'queued' and released_at is not null
)
select live.live, live.slots, running.n as running, published.n as published,
       exists (select from steps where pool = $1 and state = 'queued'
               and released_at is null) as held,
       exists (select from steps where pool = $1 and state = 'waiting'
               and reason = 'limit') as limited,
       p.published as published_before, coalesce(p.backlogged, false) as was_backlogged,
       coalesce(p.taken_per_s, 0) as taken_per_s,
       extract(epoch from now() - p.ticked_at)::float8 as since_s,
       p.paused_at is not null as paused, coalesce(p.turns, '{"","",""}') as turns
from live, running, published left join pools p on p.pool = $1
"""

_KEEP = """
insert into pools as p (pool, live, slots, credit, backlogged, published, taken_per_s,
                        turns)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (pool) do update set live = excluded.live, slots = excluded.slots,
    credit = excluded.credit, backlogged = excluded.backlogged,
    published = excluded.published, taken_per_s = excluded.taken_per_s,
    turns = excluded.turns, ticked_at = now()
    where excluded.backlogged
       or (p.live, p.slots, p.credit, p.backlogged) is distinct from
          (excluded.live, excluded.slots, excluded.credit, excluded.backlogged)
       or p.ticked_at < now() - interval '1 second'
"""


@dataclass(frozen=True)
class PoolState:
    """What the scheduler saw of a pool at its last tick.

    `paused_at` and its reason are a person's word, and count from when it was said.
    """

    pool: str
    live: int
    slots: int
    credit: int
    backlogged: bool
    paused_at: datetime | None
    paused_reason: str | None


@dataclass(frozen=True)
class Seen:
    """A pool at this tick, and what the tick before left of it."""

    live: int
    slots: int
    running: int
    published: int
    held: bool
    limited: bool
    published_before: int | None
    was_backlogged: bool
    taken_per_s: float
    since_s: float | None
    paused: bool
    turns: list[str]

    @property
    def backlogged(self) -> bool:
        """Whether new steps have to queue up: behind held ones, or behind those that wait
        for a limit, which whoever is released past them would only find used up."""
        return self.held or self.limited

    @property
    def rate(self) -> float:
        """Published steps that workers take in a second, of late.

        Only between two ticks of a backlog: then nobody else publishes.
        """
        since = self.since_s
        if not (self.was_backlogged and since and since < _STALE_S):
            return self.taken_per_s
        taken = max(0, (self.published_before or 0) - self.published) / since
        return self.taken_per_s + _SMOOTH * (taken - self.taken_per_s)

    def credit(self, window: int, admitted: int) -> int:
        """How many more may be published: what workers take now and until soon.

        At most `window`, twice the slots, and what the limits have `admitted`.
        """
        if self.paused:
            return 0
        at_most = min(window, admitted, max(LEAST_WINDOW, 2 * self.slots))
        if self.live:
            ahead = max(LEAST_AHEAD, self.slots * AHEAD_OF_SLOTS, self.rate * AHEAD_S)
            at_most = min(at_most, max(0, self.slots - self.running) + round(ahead))
        return max(0, at_most - self.published)


async def states(ledger: Ledger) -> dict[str, PoolState]:
    """All pools by name: one small table, for the caches of every process."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select pool, live, slots, credit, backlogged, paused_at, paused_reason "
            "from pools"
        )
    return {row["pool"]: PoolState(**row) for row in rows}


async def see(connection: Connection, pool: str) -> Seen:
    """Look at a pool, at a price that no backlog changes."""
    row = await connection.fetchrow(_SEEN, pool)
    assert row is not None  # noqa: S101 - counts are always there
    return Seen(**row)


async def keep(
    connection: Connection,
    pool: str,
    seen: Seen,
    credit: int,
    released: int,
) -> None:
    """Write down what this tick saw and did."""
    await connection.execute(
        _KEEP,
        pool, seen.live, seen.slots, credit, seen.backlogged, seen.published + released,
        seen.rate, seen.turns,
    )  # fmt: skip


async def pause(ledger: Ledger, pool: str, reason: str | None) -> None:
    """No call of this pool begins from now on, within a second; again: the new reason."""
    async with ledger.connection() as connection:
        await connection.execute(
            "insert into pools as p (pool, paused_at, paused_reason) "
            "values ($1, now(), $2) on conflict (pool) do update "
            "set paused_at = coalesce(p.paused_at, now()), paused_reason = $2",
            pool, reason,
        )  # fmt: skip


async def resume(ledger: Ledger, pool: str) -> bool:
    """Calls begin again, those that waited for it at once; False if it was not paused."""
    async with ledger.transaction() as connection:
        done = await connection.execute(
            "update pools set paused_at = null, paused_reason = null "
            "where pool = $1 and paused_at is not null",
            pool,
        )
        await connection.execute(
            "update steps set wake_at = now() "
            "where pool = $1 and state = 'waiting' and reason = 'paused'",
            pool,
        )
    return done == "UPDATE 1"
