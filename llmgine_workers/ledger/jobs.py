"""Jobs: written once at submit, locked to decide what is next, ended once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import orjson

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import idempotency, letters, partitions
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import LockedJob, NewJob, NewStep

_INSERT_JOBS = """
with new as (
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[],
                         $6::bool[], $7::bool[], $8::int[], $9::float8[], $10::bigint[],
                         $11::text[], $12::int[], $13::uuid[], $14::text[], $15::text[])
    as new (id, tenant, chain_version, chain_name, class, stream, simulated,
            max_attempts, timeout_s, max_cost, metadata, steps_total, batch, inputs,
            output)
), job as (
    insert into jobs (id, tenant, chain_version, chain_name, class, stream, simulated,
                      max_attempts, timeout_s, max_cost, metadata, steps_total, batch,
                      expires_at, state, finished_at)
    select id, tenant, chain_version, chain_name, class, stream, simulated, max_attempts,
           timeout_s, max_cost, metadata::jsonb, steps_total, batch,
           now() + timeout_s * interval '1 second',
           case when output is null then 'active' else 'succeeded' end,
           case when output is not null then now() end
    from new
)
insert into payloads (job_id, path, kind, body)
select id, '', 'inputs', inputs from new
union all
select id, '', 'output', output from new where output is not null
"""

_INSERT_STEPS = """
with new as (
    select * from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[],
                         $6::text[], $7::text[], $8::float8[], $9::int[], $10::text[],
                         $11::text[], $12::int[], $13::int[], $14::bool[], $15::text[])
    as new (job_id, tenant, class, path, kind, pool, request, timeout_s, max_attempts,
            model, why, tokens_in, tokens_out, released, models)
), step as (
    insert into steps (job_id, path, kind, pool, tenant, class, state, released_at,
                       max_attempts, timeout_s, model, why, tokens_in, tokens_out, models,
                       wake_at, waiting_since, reason, detail)
    select job_id, path, kind, pool, tenant, class,
           case when waits.until is null then 'queued' else 'waiting' end,
           case when released then now() end, max_attempts, timeout_s, model, why,
           tokens_in, tokens_out, array(select jsonb_array_elements_text(models::jsonb)),
           waits.until, waits.since, waits.reason, waits.detail
    from new left join lateral (
        select now() + timeout_s * interval '1 second' as until, now() as since,
               'timer' as reason, 'the chain waits here' as detail
    ) waits on kind = 'wait'
)
insert into payloads (job_id, path, kind, body)
select job_id, path, 'request', request from new
"""

_INSERT_SKIPPED = """
insert into steps (job_id, path, kind, pool, tenant, class, state, max_attempts,
                   timeout_s, finished_at)
select job_id, path, kind, '', tenant, class, 'skipped', 1, 1, now()
from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[])
as new (job_id, tenant, class, path, kind)
"""

_LOCK = """
select id, tenant, state, ending, run, chain_version, chain_name, max_attempts,
       class, stream, metadata
from jobs where id = any($1) order by id for update
"""

_END = """
update jobs set state = $2, ending = null, failure = $3, finished_at = now()
where id = $1
"""

_UNFINISHED = """
select exists (select from steps
               where job_id = $1 and state in ('queued', 'running', 'waiting'))
"""

_SUCCEED = """
with new as (select * from unnest($1::uuid[], $2::text[]) as new (id, output)),
payload as (
    insert into payloads (job_id, path, kind, body)
    select id, '', 'output', output from new
)
update jobs set state = 'succeeded', ending = null, failure = null, finished_at = now()
from new where jobs.id = new.id
"""

# Locked in the order of their keys: a worker may be claiming several of them at once.
_STOP_UNCLAIMED = """
with unclaimed as materialized (
    select path from steps where job_id = $1 and state in ('queued', 'waiting')
    order by path for update
)
update steps s set state = 'cancelled', finished_at = now(), wake_at = null
from unclaimed where s.job_id = $1 and s.path = unclaimed.path
"""


_SKIP_UNCLAIMED = """
with unclaimed as materialized (
    select path from steps
    where job_id = $1 and path = any($2) and state in ('queued', 'waiting')
    order by path for update
)
update steps s set state = 'skipped', finished_at = now(), wake_at = null
from unclaimed where s.job_id = $1 and s.path = unclaimed.path
"""


@dataclass(frozen=True)
class Batch:
    """Jobs that are accepted together."""

    id: UUID
    tenant: str
    jobs: Sequence[NewJob]


@dataclass(frozen=True)
class Standing:
    """How far a job has come: `ending` is an end that is decided and not there yet."""

    state: str
    ending: str | None


Owner = tuple[UUID, str, int]
"""Whose a step is: job, tenant and class."""


async def insert(
    ledger: Ledger,
    job: NewJob,
    released: Sequence[bool],
    key: tuple[str, bytes] | None,
) -> None:
    """The one transaction of a submit; KeyTaken if the key has its job already."""

    async def write() -> None:
        async with ledger.transaction() as connection:
            if key:
                bound = idempotency.Key(job.tenant, *key)
                await idempotency.take(connection, bound, job.id, is_batch=False)
            await _insert(connection, [job], released)

    await _with_partitions(ledger, write)


async def insert_batch(
    ledger: Ledger,
    batch: Batch,
    released: Sequence[bool],
    key: tuple[str, bytes] | None,
) -> None:
    """All of a batch or nothing; KeyTaken if the key has its batch already.

    `released` goes over the steps of its jobs, one after the other.
    """

    async def write() -> None:
        async with ledger.transaction() as connection:
            if key:
                bound = idempotency.Key(batch.tenant, *key)
                await idempotency.take(connection, bound, batch.id, is_batch=True)
            await connection.execute(
                "insert into batches (id, tenant, total) values ($1, $2, $3)",
                batch.id, batch.tenant, len(batch.jobs),
            )  # fmt: skip
            await _insert(connection, batch.jobs, released)

    await _with_partitions(ledger, write)


async def _with_partitions(ledger: Ledger, write: Callable[[], Awaitable[None]]) -> None:
    try:
        await write()
    except asyncpg.CheckViolationError:  # no partition: no scheduler for a week
        await partitions.ensure(ledger)
        await write()


async def _insert(
    connection: Connection, new: Sequence[NewJob], released: Sequence[bool]
) -> None:
    """A few statements, however many jobs."""
    await connection.execute(
        _INSERT_JOBS,
        [job.id for job in new],
        [job.tenant for job in new],
        [job.chain_version for job in new],
        [job.chain_name for job in new],
        [job.priority for job in new],
        [job.stream for job in new],
        [job.simulated for job in new],
        [job.max_attempts for job in new],
        [job.timeout_s for job in new],
        [job.max_cost for job in new],
        [orjson.dumps(dict(job.metadata)).decode() for job in new],
        [job.steps_total for job in new],
        [job.batch for job in new],
        [job.inputs for job in new],
        [job.output for job in new],
    )
    owned = [(_owner(job), step) for job in new for step in job.steps]
    await insert_steps(connection, owned, released)
    await insert_skipped(
        connection, [(_owner(job), *step) for job in new for step in job.skipped]
    )


def _owner(job: NewJob) -> Owner:
    return job.id, job.tenant, job.priority


async def insert_steps(
    connection: Connection,
    owned: Sequence[tuple[Owner, NewStep]],
    released: Sequence[bool],
) -> None:
    """Write steps of one or more jobs as queued, held or released."""
    if owned:
        await connection.execute(
            _INSERT_STEPS,
            *_columns([owner for owner, _ in owned]),
            [step.path for _, step in owned],
            [step.kind for _, step in owned],
            [step.pool for _, step in owned],
            [step.request for _, step in owned],
            [step.timeout_s for _, step in owned],
            [step.max_attempts for _, step in owned],
            [step.model for _, step in owned],
            [step.why for _, step in owned],
            [step.tokens_in for _, step in owned],
            [step.tokens_out for _, step in owned],
            list(released),
            [orjson.dumps(step.models).decode() for _, step in owned],
        )


async def insert_skipped(
    connection: Connection, owned: Sequence[tuple[Owner, str, str]]
) -> None:
    """Write steps of one or more jobs, by path and kind, that `plan()` passed over."""
    if owned:
        await connection.execute(
            _INSERT_SKIPPED,
            *_columns([owner for owner, _, _ in owned]),
            [path for _, path, _ in owned],
            [kind for _, _, kind in owned],
        )


def _columns(owners: Sequence[Owner]) -> tuple[list[UUID], list[str], list[int]]:
    return (
        [job for job, _, _ in owners],
        [tenant for _, tenant, _ in owners],
        [priority for _, _, priority in owners],
    )


async def lock(connection: Connection, job: UUID) -> LockedJob | None:
    """Lock the job's row until the transaction ends. Always before its steps."""
    return (await lock_all(connection, [job])).get(job)


async def lock_all(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, LockedJob]:
    """Lock several, in the order that everybody takes who locks more than one."""
    rows = await connection.fetch(_LOCK, list(ids))
    return {row["id"]: _locked(row) for row in rows}


def _locked(row: asyncpg.Record) -> LockedJob:
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


async def skip_unclaimed(connection: Connection, job: UUID, paths: Sequence[str]) -> bool:
    """Pass over steps that are not wanted any more; False if all of them are running."""
    if not paths:
        return False
    done = await connection.execute(_SKIP_UNCLAIMED, job, list(paths))
    return done != "UPDATE 0"


async def end_if_settled(
    connection: Connection, job: LockedJob, end: str, failure: Failure | None
) -> UUID | None:
    """Row 16: the end, once no call of the job is running any more.

    A retry does not lock the job, so a call may have gone back to waiting since its
    steps were stopped: then the job stays ending, and the scheduler settles it.
    """
    if await connection.fetchval(_UNFINISHED, job.id):
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


async def succeed(connection: Connection, outputs: Mapping[UUID, str]) -> None:
    """The good end of jobs, each with its chain's output (JSON)."""
    if outputs:
        await connection.execute(_SUCCEED, list(outputs), list(outputs.values()))


async def ending_failure(connection: Connection, job: UUID) -> Failure | None:
    """Why the job is ending."""
    found = await connection.fetchval("select failure from jobs where id = $1", job)
    return Failure(**found) if found else None


async def standing(ledger: Ledger, tenant: str, job: UUID) -> Standing | None:
    """How a tenant's job stands; None if it has no such job."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(
            "select state, ending from jobs where id = $1 and tenant = $2", job, tenant
        )
    return Standing(**row) if row else None


async def queued_of(ledger: Ledger, tenant: str) -> int:
    """Unfinished steps of a tenant, as the scheduler last counted them."""
    async with ledger.connection() as connection:
        found = await connection.fetchval(
            "select queued from tenant_load where tenant = $1", tenant
        )
    return found or 0
