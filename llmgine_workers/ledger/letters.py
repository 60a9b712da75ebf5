"""Dead letters: one per failed job and run, written with the end of the job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger.connection import Connection, Ledger

if TYPE_CHECKING:
    from llmgine_workers.ledger.records import LockedJob

RAW_KEPT = 64 * 1024
"""Bytes kept of a message that could not be read."""

_FAILED_STEPS = """
select path, pool, failure from steps where job_id = $1 and state = 'failed' order by path
"""

_WRITE = """
insert into letters (id, job_id, run, tenant, chain, step, pool, error, fingerprint,
                     cost, task_id)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, sum(coalesce(cost, reserved, 0)), $10
from attempts where job_id = $2
"""

_COLUMNS = """
id, state, job_id as job, tenant, chain, step, pool, error, fingerprint,
run as replays, cost, task_id, raw, created_at, resolved_at, resolved_by, resolution
"""


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
        fingerprint(failure, step), clock.task_id(job.id, step or "", job.run),
    )  # fmt: skip
    return letter


async def write_unprocessable(ledger: Ledger, raw: bytes, why: str) -> UUID:
    """The letter of a message that nobody could read, kept raw."""
    failure = Failure("unprocessable", why)
    letter = clock.uuid7()
    async with ledger.connection() as connection:
        await connection.execute(
            "insert into letters (id, error, fingerprint, raw, mirrored_at) "
            "values ($1, $2, $3, $4, null)",
            letter, failure.as_dict(), fingerprint(failure, None), raw[:RAW_KEPT],
        )  # fmt: skip
    return letter


async def listed(
    ledger: Ledger,
    *,
    state: str | None = "open",
    limit: int = 100,
    tenant: str | None = None,
) -> list[dict[str, Any]]:
    """Letters, newest first."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            f"select {_COLUMNS} from letters where ($1::text is null or state = $1) "
            "and ($2::text is null or tenant = $2) order by id desc limit $3",
            state,
            tenant,
            limit,
        )
    return [dict(row) for row in rows]


async def found(ledger: Ledger, letter: UUID) -> dict[str, Any] | None:
    """One letter by its id, or by the id of its job (the newest then)."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(
            f"select {_COLUMNS} from letters where id = $1 or job_id = $1 "
            "order by id desc limit 1",
            letter,
        )
    return dict(row) if row else None


async def states(ledger: Ledger, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The states of the letters with these ids."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select id, state from letters where id = any($1)", list(ids)
        )
    return {row["id"]: row["state"] for row in rows}


async def take_unmirrored(ledger: Ledger, limit: int) -> list[dict[str, Any]]:
    """Open letters without a copy in the broker: marked as mirrored, to be published.

    A crash before that leaves them marked; the next rotate does not meet them then.
    """
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "update letters set mirrored_at = now() where id in (select id from letters "
            "where state = 'open' and mirrored_at is null order by id limit $1 "
            f"for update skip locked) returning {_COLUMNS}",
            limit,
        )
    return [dict(row) for row in rows]


async def unmark(ledger: Ledger, ids: Sequence[UUID]) -> None:
    """Their copies were not confirmed by the broker."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update letters set mirrored_at = null where id = any($1)", list(ids)
        )


async def count_mirrored(ledger: Ledger, most: int) -> int:
    """How many messages `<prefix>.dead`, which keeps the newest `most`, should hold."""
    async with ledger.connection() as connection:
        found = await connection.fetchval(
            "select count(*) from letters where state = 'open' "
            "and mirrored_at is not null"
        )
    return min(int(found), most)


async def mark_unseen(
    ledger: Ledger, seen: Sequence[UUID], before: UUID, most: int
) -> None:
    """Open letters older than `before` that a whole rotate did not meet: to publish.

    Only the newest `most` are expected there.
    """
    async with ledger.connection() as connection:
        await connection.execute(
            "update letters set mirrored_at = null where state = 'open' "
            "and mirrored_at is not null and id < $2 and not id = any($1) "
            "and id in (select id from letters where state = 'open' "
            "order by id desc limit $3)",
            list(seen), before, most,
        )  # fmt: skip


async def set_dirty(connection: Connection) -> None:
    """`<prefix>.dead` may hold letters that are resolved by now."""
    await connection.execute("update mirror set dirty = true")


async def begin_rotate(ledger: Ledger) -> bool:
    """Take the one right to rotate, for a minute; False while another has it."""
    async with ledger.connection() as connection:
        return bool(
            await connection.fetchval(
                "update mirror set dirty = false, "
                "rotating_until = now() + interval '1 minute' "
                "where coalesce(rotating_until, now()) <= now() returning true"
            )
        )


async def end_rotate(ledger: Ledger) -> None:
    """Give the right back."""
    async with ledger.connection() as connection:
        await connection.execute("update mirror set rotating_until = null")


async def is_dirty(ledger: Ledger) -> bool:
    """Whether there may be something to take out of `<prefix>.dead`."""
    async with ledger.connection() as connection:
        return bool(await connection.fetchval("select dirty from mirror"))


def fingerprint(failure: Failure, step: str | None) -> str:
    """What groups letters: code, step and message without numbers and ids."""
    message = re.sub(r"\b[0-9a-f-]{8,}\b|\d+", "#", failure.message)
    text = f"{failure.code}\n{step or ''}\n{message}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
