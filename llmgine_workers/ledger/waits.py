"""Steps that only wait: written as waiting, ended when their time has come."""

from __future__ import annotations

from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import StepKey

_OVER = """
select job_id, path from steps
where state = 'waiting' and kind = 'wait' and wake_at <= now() limit 500
"""

_END = """
with ended as (
    update steps set state = $3, finished_at = now(), wake_at = null, reason = null,
        detail = null, waiting_since = null
    where job_id = $1 and path = $2 and kind = 'wait' and state = 'waiting'
    returning true as ours
), payload as (
    insert into payloads (job_id, path, kind, body) select $1, $2, 'output', $4 from ended
)
select ours from ended
"""


async def over(ledger: Ledger) -> list[StepKey]:
    """Waits whose time has come."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_OVER)
    return [StepKey(row["job_id"], row["path"]) for row in rows]


async def end(key: StepKey, output: str, connection: Connection, state: str) -> bool:
    """End a wait under its job's lock; False if somebody else has."""
    return bool(await connection.fetchval(_END, key.job, key.path, state, output))
