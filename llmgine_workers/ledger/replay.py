"""Row 17: a failed job goes on from the steps that failed; the letter is closed."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from llmgine_workers.ledger import letters
from llmgine_workers.ledger.connection import Connection

_CLOSE = """
update letters set state = 'resolved', resolution = $2, resolved_by = $3,
    resolved_at = now()
where id = $1 and state = 'open' returning true
"""

_REOPEN_JOB = """
update jobs set state = 'active', ending = null, failure = null, finished_at = null,
    run = run + 1, expires_at = now() + timeout_s * interval '1 second'
where id = $1
"""

_REOPEN_STEPS = """
update steps set state = 'queued', released_at = null, wake_at = null, tries = 0,
    crashes = 0, failure = null, finished_at = null, worker = null,
    model = coalesce(models[1], model), given_up = '{}',
    pool = coalesce(split_part(models[1], '/', 1), pool)
where job_id = $1 and (state = 'cancelled' or state = 'failed' and not path = any($2))
"""


async def close_letter(
    connection: Connection, letter: UUID, resolution: str, by: str
) -> bool:
    """Resolve an open letter; False if somebody has done so before."""
    closed = await connection.fetchval(_CLOSE, letter, resolution, by)
    if closed:
        await letters.set_dirty(connection)
    return bool(closed)


async def reopen(connection: Connection, job: UUID, keep: Sequence[str]) -> None:
    """A new run with a new time-out; failed steps named in `keep` stay as they are."""
    await connection.execute(_REOPEN_JOB, job)
    await connection.execute(_REOPEN_STEPS, job, list(keep))
