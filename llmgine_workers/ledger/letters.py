"""Dead letters: one per failed job and run, written with the end of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.fingerprint import fingerprint

if TYPE_CHECKING:
    from llmgine_workers.ledger.records import LockedJob

RAW_KEPT = 64 * 1024
"""Bytes kept of a message that could not be read."""

RAW_SHOWN = 200
"""Bytes of it in a list; the letter itself has all that is kept."""

_FAILED_STEPS = """
select path, pool, failure from steps where job_id = $1 and state = 'failed' order by path
"""

_WRITE = """
insert into letters (id, job_id, run, tenant, chain, step, pool, error, fingerprint,
                     cost, task_id)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, sum(coalesce(cost, reserved, 0)), $10
from attempts where job_id = $2
"""

# A pass that was killed before its acknowledgement meets the message again.
_WRITE_RAW = """
with fresh as (
    insert into raw_deliveries (delivery, letter) values ($5, $1)
    on conflict do nothing returning letter
)
insert into letters (id, error, fingerprint, raw)
select letter, $2, $3, $4 from fresh returning id
"""

_BUT_RAW = """
id, state, job_id as job, tenant, chain, step, pool, error, fingerprint,
run as replays, cost, task_id, created_at, resolved_at, resolved_by, resolution
"""
COLUMNS = f"{_BUT_RAW}, raw"
_IN_LISTS = f"{_BUT_RAW}, substring(raw for {RAW_SHOWN}) as raw"

_ATTEMPTS = """
select * from attempts where job_id = $1 and run = $2
   and (path = $3 or state in ('failed', 'ambiguous'))
order by path, n
"""
_REQUEST = """
select body from payloads where job_id = $1 and path = $2 and kind = 'request'
"""

STATES = ("open", "resolved", "ignored")


@dataclass(frozen=True)
class Wanted:
    """Which letters are meant; None means any. `since` is included, `until` is not."""

    tenant: str | None = None
    chain: str | None = None
    step: str | None = None
    pool: str | None = None
    code: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: str | None = "open"
    task_id: UUID | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The condition, with `$1` and on for its values."""
        conditions = ["true"]
        if self.state is not None:  # written out, for the index of the open ones
            conditions.append(f"state = '{STATES[STATES.index(self.state)]}'")
        values: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "state":
                values.append(value)
                bound = _BOUNDS.get(field.name, f"{field.name} =")
                conditions.append(f"{bound} ${len(values)}")
        return " and ".join(conditions), values


_BOUNDS = {"since": "created_at >=", "until": "created_at <"}


async def write(connection: Connection, job: LockedJob, failure: Failure) -> UUID:
    """The letter of a job that failed in this run; names every step that failed."""
    failed = await connection.fetch(_FAILED_STEPS, job.id)
    step = failure.step or (failed[0]["path"] if failed else None)
    others = [row["path"] for row in failed if row["path"] != step]
    error = failure.as_dict()
    if others:
        error["message"] += f" (failed as well: {', '.join(others)})"
    pool = next((row["pool"] for row in failed if row["path"] == step), None)
    letter = clock.uuid7()
    await connection.execute(
        _WRITE,
        letter, job.id, job.run, job.tenant, job.chain_name, step, pool, error,
        fingerprint(failure.code, failure.message, job.chain_name, step),
        clock.task_id(job.id, step or "", job.run),
    )  # fmt: skip
    return letter


async def write_unprocessable(
    ledger: Ledger, raw: bytes, why: str, delivery: bytes
) -> UUID | None:
    """The letter of a message that nobody could read, kept raw.

    None if this `delivery` has its letter already.
    """
    failure = Failure("unprocessable", why)
    async with ledger.connection() as connection:
        found: UUID | None = await connection.fetchval(
            _WRITE_RAW,
            clock.uuid7(), failure.as_dict(), fingerprint(failure.code, why),
            raw[:RAW_KEPT], delivery,
        )  # fmt: skip
    return found


async def listed(
    ledger: Ledger, wanted: Wanted, *, limit: int, before: UUID | None = None
) -> list[dict[str, Any]]:
    """Letters, newest first, with the beginnings of raw messages only."""
    condition, values = wanted.where()
    if before is not None:
        values.append(before)
        condition += f" and id < ${len(values)}"
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            f"select {_IN_LISTS} from letters where {condition} "
            f"order by id desc limit ${len(values) + 1}",
            *values, limit,
        )  # fmt: skip
    return [dict(row) for row in rows]


async def found(
    ledger: Ledger, letter: UUID, tenant: str | None = None
) -> dict[str, Any] | None:
    """One letter by its id, or by the id of its job (the newest then)."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(
            f"select {COLUMNS} from letters where (id = $1 or job_id = $1) "
            "and ($2::text is null or tenant = $2) order by id desc limit 1",
            letter, tenant,
        )  # fmt: skip
    return dict(row) if row else None


async def attempts(
    ledger: Ledger, job: UUID, run: int, step: str | None
) -> list[asyncpg.Record]:
    """The calls of that run which led to the letter: the failed step's, and all that
    failed."""
    async with ledger.connection() as connection:
        return list(await connection.fetch(_ATTEMPTS, job, run, step))


async def request(ledger: Ledger, job: UUID, step: str) -> str | None:
    """The step's rendered request (JSON), while it is kept."""
    async with ledger.connection() as connection:
        body = await connection.fetchval(_REQUEST, job, step)
    return str(body) if body is not None else None


async def count(ledger: Ledger, wanted: Wanted) -> int:
    """How many there are."""
    condition, values = wanted.where()
    async with ledger.connection() as connection:
        return int(
            await connection.fetchval(
                f"select count(*) from letters where {condition}", *values
            )
        )


async def close(
    ledger: Ledger, ids: Sequence[UUID], state: str, by: str, tenant: str | None
) -> list[dict[str, Any]]:
    """Resolve (as discarded) or ignore letters; answers those that this has changed."""
    async with ledger.transaction() as connection:
        rows = await connection.fetch(
            "update letters set state = $2, resolved_by = $3, resolved_at = now(), "
            "resolution = case when $2 = 'resolved' then 'discarded' end "
            "where id = any($1) and ($4::text is null or tenant = $4) "
            "and state <> 'resolved' and state <> $2 returning id, job_id as job",
            list(ids), state, by, tenant,
        )  # fmt: skip
        if rows:
            await connection.execute("update mirror set dirty = true")
    return [dict(row) for row in rows]
