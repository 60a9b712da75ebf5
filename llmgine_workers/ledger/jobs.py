"""Jobs: locked to decide what is next, ended once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import letters, new_steps
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.new_steps import Owner
from llmgine_workers.ledger.records import LockedJob, NewStep

_INSERT_STEPS = f"""
with {new_steps.new_step(1)}, step as ({new_steps.INSERT})
insert into payloads (job_id, path, kind, body) {new_steps.REQUESTS}
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
class Standing:
    """How far a job has come: `ending` is an end that is decided and not there yet."""

    state: str
    ending: str | None


async def insert_steps(
    connection: Connection,
    owned: Sequence[tuple[Owner, NewStep]],
    released: Sequence[bool],
) -> None:
    """Write steps of one or more jobs as queued, held or released."""
    rows = (
        new_steps.queued(owner, step, released=is_released)
        for (owner, step), is_released in zip(owned, released, strict=True)
    )
    await _insert_steps(connection, rows)


async def insert_skipped(
    connection: Connection, owned: Sequence[tuple[Owner, str, str]]
) -> None:
    """Write steps of one or more jobs, by path and kind, that `plan()` passed over."""
    await _insert_steps(connection, (new_steps.skipped(*one) for one in owned))


async def _insert_steps(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = new_steps.columns(new_steps.WIDTH, rows)
    if columns[0]:
        await connection.execute(_INSERT_STEPS, *columns)


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


async def queued_each(ledger: Ledger, tenants: Sequence[str]) -> list[int]:
    """Unfinished steps of each tenant, as the scheduler last counted them."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select tenant, queued from tenant_load where tenant = any($1)", list(tenants)
        )
    queued = {row["tenant"]: row["queued"] for row in rows}
    return [queued.get(tenant, 0) for tenant in tenants]
