"""Worker processes: they beat; the scheduler watches numbers, never timestamps."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import StepKey


@dataclass(frozen=True)
class Running:
    """What the ledger believes a worker is calling right now."""

    key: StepKey
    fence: int
    job_ending: bool


@dataclass(frozen=True)
class Pulse:
    """The answer to a beat."""

    dead: bool
    live_workers: int
    running: tuple[Running, ...]


@dataclass(frozen=True)
class Observed:
    """A worker's beat as one poll saw it, and which server answered."""

    id: UUID
    pool: str
    beat_no: int


async def register(ledger: Ledger, worker: UUID, pool: str, slots: int, at: str) -> None:
    """A new incarnation; `at` is host:pid, for people."""
    host, _, pid = at.rpartition(":")
    async with ledger.connection() as connection:
        await connection.execute(
            "insert into workers (id, pool, host, pid, slots) "
            "values ($1, $2, $3, $4, $5) "
            "on conflict do nothing",
            worker, pool, host, int(pid), slots,
        )  # fmt: skip


async def beat(connection: Connection, worker: UUID) -> Pulse:
    """Count one beat; learn one's own death, the pool's size and what should run."""
    row = await connection.fetchrow(
        "update workers set beat_no = beat_no + 1 where id = $1 "
        "returning dead_at is not null as dead, (select count(*) from workers o "
        "where o.pool = workers.pool and o.dead_at is null and o.stopped_at is null) "
        "as live",
        worker,
    )
    rows = await connection.fetch(
        "select s.job_id, s.path, s.fence, j.state <> 'active' or j.ending is not null "
        "as job_ending from steps s join jobs j on j.id = s.job_id "
        "where s.worker = $1 and s.state = 'running'",
        worker,
    )
    running = tuple(
        Running(StepKey(one["job_id"], one["path"]), one["fence"], one["job_ending"])
        for one in rows
    )
    return Pulse(row is None or row["dead"], row["live"] if row else 0, running)


async def stop(ledger: Ledger, worker: UUID) -> None:
    """A worker that left in order."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update workers set stopped_at = now() where id = $1", worker
        )


async def observe(connection: Connection) -> tuple[str, list[Observed]]:
    """One poll: the server's start time and every worker not known to be gone."""
    started = await connection.fetchval("select pg_postmaster_start_time()::text")
    rows = await connection.fetch(
        "select id, pool, beat_no from workers "
        "where dead_at is null and stopped_at is null"
    )
    return started, [Observed(**row) for row in rows]


async def declare_dead(ledger: Ledger, worker: UUID, beat_no: int) -> bool:
    """Row 19: only if it has not beaten since it was last seen."""
    async with ledger.connection() as connection:
        return bool(
            await connection.fetchval(
                "update workers set dead_at = now() "
                "where id = $1 and beat_no = $2 and dead_at is null returning true",
                worker,
                beat_no,
            )
        )
