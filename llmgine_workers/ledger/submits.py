"""Row 1: jobs with their steps, payloads and keys; one statement for many submits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import orjson

from llmgine_workers.ledger import idempotency, new_steps, partitions
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import NewJob

_OF_A_ROW = 10_000
"""What a job weighs besides its payloads, so that 200 small ones go together."""

AT_MOST_BYTES = 2_000_000
"""Weight of the submits of one statement."""

# No join anywhere: planned for arrays of unknown length, it would be a nested loop. A
# key that another transaction is about to bind is not waited for: its job is left out.
_LOCK = idempotency.lock_of("tenant", "key")
_INSERT = f"""
with new as (
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[],
                         $6::bool[], $7::bool[], $8::int[], $9::float8[], $10::bigint[],
                         $11::text[], $12::int[], $13::uuid[], $14::text[], $15::text[],
                         $16::bytea[], $17::text[], $18::text[])
    as new (id, tenant, chain_version, chain_name, class, stream, simulated,
            max_attempts, timeout_s, max_cost, metadata, steps_total, batch, inputs,
            key, body_hash, output, webhook)
), {new_steps.new_step(19)}, bound as (
    insert into idempotency (tenant, key, body_hash, job_id)
    select tenant, key, body_hash, id from new
    where key is not null and pg_try_advisory_xact_lock({_LOCK})
    on conflict do nothing returning job_id
), job as (
    insert into jobs (id, tenant, chain_version, chain_name, class, stream, simulated,
                      max_attempts, timeout_s, max_cost, metadata, steps_total, batch,
                      expires_at, webhook, state, finished_at)
    select id, tenant, chain_version, chain_name, class, stream, simulated, max_attempts,
           timeout_s, max_cost, metadata::jsonb, steps_total, batch,
           now() + timeout_s * interval '1 second', webhook,
           case when output is null then 'active' else 'succeeded' end,
           case when output is not null then now() end
    from new
    where key is null or id in (select job_id from bound)
), step as (
    {new_steps.INSERT} where not keyed or job_id in (select job_id from bound)
), payload as (
    insert into payloads (job_id, path, kind, body)
    select id, '', 'inputs', inputs from new
    where key is null or id in (select job_id from bound)
    union all
    select id, '', 'output', output from new
    where output is not null and (key is null or id in (select job_id from bound))
    union all
    {new_steps.REQUESTS} and (not keyed or job_id in (select job_id from bound))
)
select now() as at, (select array_agg(job_id) from bound) as bound
"""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Submit:
    """A job to be written, which of its steps are released with it, and its key.

    The key is an `Idempotency-Key` and the hash of the body it came with.
    """

    job: NewJob
    released: Sequence[bool]
    key: tuple[str, bytes] | None = None

    def weight(self) -> int:
        """About how many bytes it is, for a `Gatherer`."""
        requests = sum(len(step.request) for step in self.job.steps)
        return _OF_A_ROW + len(self.job.inputs) + len(self.job.output or "") + requests


@dataclass(frozen=True)
class Batch:
    """Jobs that are accepted together. `released` goes over the steps of all."""

    id: UUID
    tenant: str
    jobs: Sequence[NewJob]
    released: Sequence[bool]


async def insert_each(ledger: Ledger, submits: Sequence[Submit]) -> list[datetime | None]:
    """One transaction for all, which waits for nobody; answers when each was made.

    None for one whose key is somebody's, or is about to be: `insert` finds out whose.
    """

    async def write() -> list[datetime | None]:
        async with ledger.connection() as connection:
            at, bound = await _insert(connection, submits)
        return [at if s.key is None or s.job.id in bound else None for s in submits]

    return await _with_partitions(ledger, write)


async def insert(ledger: Ledger, submit: Submit) -> datetime:
    """One submit alone; KeyTaken if its key has its job already.

    Waits for a transaction that is about to bind the same key.
    """
    job, key = submit.job, submit.key

    async def write() -> datetime:
        async with ledger.transaction() as connection:
            if key:
                bound = idempotency.Key(job.tenant, *key)
                await idempotency.take(connection, bound, job.id, is_batch=False)
            at, _ = await _insert(connection, [Submit(job, submit.released)])
            return at

    return await _with_partitions(ledger, write)


async def insert_batch(
    ledger: Ledger, batch: Batch, key: tuple[str, bytes] | None
) -> datetime:
    """All of a batch or nothing; KeyTaken if the key has its batch already."""
    released = iter(batch.released)
    submits = [Submit(job, [next(released) for _ in job.steps]) for job in batch.jobs]

    async def write() -> datetime:
        async with ledger.transaction() as connection:
            if key:
                bound = idempotency.Key(batch.tenant, *key)
                await idempotency.take(connection, bound, batch.id, is_batch=True)
            await connection.execute(
                "insert into batches (id, tenant, total) values ($1, $2, $3)",
                batch.id, batch.tenant, len(batch.jobs),
            )  # fmt: skip
            at, _ = await _insert(connection, submits)
            return at

    return await _with_partitions(ledger, write)


async def _with_partitions(
    ledger: Ledger, write: Callable[[], Awaitable[Result]]
) -> Result:
    try:
        return await write()
    except asyncpg.CheckViolationError:  # no partition: no scheduler for a week
        await partitions.ensure(ledger)
        return await write()


async def _insert(
    connection: Connection, submits: Sequence[Submit]
) -> tuple[datetime, frozenset[UUID]]:
    """When it was, and the jobs whose keys were bound."""
    jobs = new_steps.columns(18, map(_job_row, submits))
    rows = chain.from_iterable(map(_step_rows, submits))
    steps = new_steps.columns(new_steps.WIDTH, rows)
    row = await connection.fetchrow(_INSERT, *jobs, *steps)
    assert row is not None  # noqa: S101 - one row always
    return row["at"], frozenset(row["bound"] or ())


def _job_row(submit: Submit) -> tuple[Any, ...]:
    job = submit.job
    return (
        job.id, job.tenant, job.chain_version, job.chain_name, job.priority, job.stream,
        job.simulated, job.max_attempts, job.timeout_s, job.max_cost,
        orjson.dumps(dict(job.metadata)).decode(), job.steps_total, job.batch, job.inputs,
        *(submit.key or (None, None)), job.output, job.webhook,
    )  # fmt: skip


def _step_rows(submit: Submit) -> Iterable[tuple[Any, ...]]:
    job, keyed = submit.job, submit.key is not None
    owner = (job.id, job.tenant, job.priority)
    for step, released in zip(job.steps, submit.released, strict=True):
        yield new_steps.queued(owner, step, released=released, keyed=keyed)
    for path, kind in job.skipped:
        yield new_steps.skipped(owner, path, kind, keyed=keyed)
