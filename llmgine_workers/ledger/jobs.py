"""Jobs: written once at submit, locked to decide what is next, ended once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger import letters, partitions
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import LockedJob, NewJob, NewStep

IDEMPOTENCY_KEPT = timedelta(hours=24)

_INSERT_JOB = """
with job as (
    insert into jobs (id, tenant, chain_version, chain_name, class, stream, simulated,
                      max_attempts, timeout_s, max_cost, metadata, steps_total,
                      expires_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
            now() + $9 * interval '1 second')
)
insert into payloads (job_id, path, kind, body) values ($1, '', 'inputs', $13)
"""

_INSERT_STEPS = """
with new as (
    select * from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::float8[],
                         $9::int[], $10::text[], $11::text[], $12::bool[])
    as new (path, kind, pool, request, timeout_s, max_attempts, model, why, released)
), step as (
    insert into steps (job_id, path, kind, pool, tenant, class, state, released_at,
                       max_attempts, timeout_s, model, why)
    select $1, path, kind, pool, $2, $3, 'queued', case when released then now() end,
           max_attempts, timeout_s, model, why from new
)
insert into payloads (job_id, path, kind, body)
select $1, path, 'request', request from new
"""

_INSERT_SKIPPED = """
insert into steps (job_id, path, kind, pool, tenant, class, state, max_attempts,
                   timeout_s, finished_at)
select $1, path, 'tool', '', $2, $3, 'skipped', 1, 1, now()
from unnest($4::text[]) as path
"""

_LOCK = """
select id, tenant, state, ending, run, chain_version, chain_name, max_attempts,
       class, stream, metadata
from jobs where id = $1 for update
"""

_END = """
update jobs set state = $2, ending = null, failure = $3, finished_at = now()
where id = $1
"""

_STOP_UNCLAIMED = """
update steps set state = 'cancelled', finished_at = now(), wake_at = null
where job_id = $1 and state in ('queued', 'waiting')
"""


class KeyTaken(Exception):
    """An idempotency key was used before: for that job, with that body."""

    def __init__(self, job: UUID, body_hash: bytes) -> None:
        super().__init__(str(job))
        self.job = job
        self.body_hash = body_hash


async def insert(
    ledger: Ledger,
    job: NewJob,
    released: Sequence[bool],
    idempotency: tuple[str, bytes] | None,
) -> None:
    """The one transaction of a submit; KeyTaken if the key has its job already."""
    try:
        await _insert(ledger, job, released, idempotency)
    except asyncpg.CheckViolationError:  # no partition: no scheduler for a week
        await partitions.ensure(ledger)
        await _insert(ledger, job, released, idempotency)


async def _insert(
    ledger: Ledger,
    job: NewJob,
    released: Sequence[bool],
    idempotency: tuple[str, bytes] | None,
) -> None:
    async with ledger.transaction() as connection:
        if idempotency:
            await _take_key(connection, job, *idempotency)
        await connection.execute(
            _INSERT_JOB,
            job.id, job.tenant, job.chain_version, job.chain_name, job.priority,
            job.stream, job.simulated, job.max_attempts, job.timeout_s, job.max_cost,
            dict(job.metadata), job.steps_total, job.inputs,
        )  # fmt: skip
        await insert_steps(
            connection, (job.id, job.tenant, job.priority), job.steps, released
        )
        await insert_skipped(connection, (job.id, job.tenant, job.priority), job.skipped)


async def insert_steps(
    connection: Connection,
    owner: tuple[UUID, str, int],
    steps: Sequence[NewStep],
    released: Sequence[bool],
) -> None:
    """Write steps as queued, held or released; `owner` is job, tenant and class."""
    if steps:
        await connection.execute(
            _INSERT_STEPS,
            *owner,
            [step.path for step in steps],
            [step.kind for step in steps],
            [step.pool for step in steps],
            [step.request for step in steps],
            [step.timeout_s for step in steps],
            [step.max_attempts for step in steps],
            [step.model for step in steps],
            [step.why for step in steps],
            list(released),
        )


async def insert_skipped(
    connection: Connection, owner: tuple[UUID, str, int], paths: Sequence[str]
) -> None:
    """Write steps that `plan()` passed over."""
    if paths:
        await connection.execute(_INSERT_SKIPPED, *owner, list(paths))


async def lock(connection: Connection, job: UUID) -> LockedJob | None:
    """Lock the job's row until the transaction ends. Always before its steps."""
    row = await connection.fetchrow(_LOCK, job)
    if row is None:
        return None
    columns = dict(row)
    return LockedJob(priority=columns.pop("class"), **columns)


async def decide_end(
    connection: Connection, job: LockedJob, end: str, failure: Failure | None
) -> UUID | None:
    """Row 15: no new calls; the job ends now if none is running, else with the last.

    Returns the letter's id if the job failed here and now.
    """
    await connection.execute(
        "update jobs set ending = $2, failure = $3 where id = $1",
        job.id,
        end,
        failure.as_dict() if failure else None,
    )
    await stop_unclaimed(connection, job.id)
    return await end_if_settled(connection, job, end, failure)


async def stop_unclaimed(connection: Connection, job: UUID) -> None:
    """Cancel every step of a job that no call has begun for."""
    await connection.execute(_STOP_UNCLAIMED, job)


async def end_if_settled(
    connection: Connection, job: LockedJob, end: str, failure: Failure | None
) -> UUID | None:
    """Row 16: the end, once no call of the job is running any more."""
    if await connection.fetchval(
        "select exists (select from steps where job_id = $1 and state = 'running')",
        job.id,
    ):
        return None
    await connection.execute(_END, job.id, end, failure.as_dict() if failure else None)
    if end != "failed" or failure is None:
        return None
    return await letters.write(connection, job, failure)


async def ended(connection: Connection, job: UUID) -> str | None:
    """The job's end, if it has come to one."""
    found = await connection.fetchval(
        "select nullif(state, 'active') from jobs where id = $1", job
    )
    return str(found) if found else None


async def succeed(connection: Connection, job: LockedJob, output: str) -> None:
    """The good end, with the chain's output (JSON)."""
    await connection.execute(
        "insert into payloads (job_id, path, kind, body) values ($1, '', 'output', $2)",
        job.id,
        output,
    )
    await connection.execute(_END, job.id, "succeeded", None)


async def ending_failure(connection: Connection, job: UUID) -> Failure | None:
    """Why the job is ending."""
    found = await connection.fetchval("select failure from jobs where id = $1", job)
    return Failure(**found) if found else None


async def queued_of(ledger: Ledger, tenant: str) -> int:
    """Unfinished steps of a tenant, as the scheduler last counted them."""
    async with ledger.connection() as connection:
        found = await connection.fetchval(
            "select queued from tenant_load where tenant = $1", tenant
        )
    return found or 0


async def _take_key(
    connection: Connection, job: NewJob, key: str, body_hash: bytes
) -> None:
    taken = await connection.fetchval(
        "insert into idempotency (tenant, key, body_hash, job_id) "
        "values ($1, $2, $3, $4) on conflict do nothing returning true",
        job.tenant, key, body_hash, job.id,
    )  # fmt: skip
    if taken:
        return
    row = await connection.fetchrow(
        "select i.job_id, i.body_hash, i.created_at, j.state from idempotency i "
        "left join jobs j on j.id = i.job_id where i.tenant = $1 and i.key = $2 "
        "for update of i",
        job.tenant, key,
    )  # fmt: skip
    assert row is not None  # noqa: S101 - only prune deletes, a day later
    old = row["created_at"] < clock.now() - IDEMPOTENCY_KEPT
    if not (old and row["state"] != "active"):
        raise KeyTaken(row["job_id"], row["body_hash"])
    await connection.execute(
        "update idempotency set body_hash = $3, job_id = $4, created_at = now() "
        "where tenant = $1 and key = $2",
        job.tenant, key, body_hash, job.id,
    )  # fmt: skip
