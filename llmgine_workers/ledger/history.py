"""What a job has behind it: all that `plan()` replays, read at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from llmgine_workers.ledger.connection import Connection

Ended = Literal["succeeded", "failed", "skipped"]

_READ = """
select s.path, s.state, p.body from steps s left join payloads p
    on p.job_id = s.job_id and p.path = s.path and p.kind = 'output'
where s.job_id = $1
union all
select '', 'inputs', body from payloads
where job_id = $1 and path = '' and kind = 'inputs'
"""


@dataclass(frozen=True)
class History:
    """A job's inputs (JSON; None when they are no longer kept), the paths of all its
    steps, and of the ended ones the state and the output (JSON)."""

    inputs: str | None
    known: frozenset[str]
    results: Mapping[str, tuple[Ended, str | None]]


async def read(connection: Connection, job: UUID) -> History:
    """Read it; under the job's lock it cannot change meanwhile."""
    rows = await connection.fetch(_READ, job)
    steps = [row for row in rows if row["path"]]
    inputs = next((row["body"] for row in rows if not row["path"]), None)
    ended = {
        row["path"]: (row["state"], row["body"])
        for row in steps
        if row["state"] in ("succeeded", "failed", "skipped")
    }
    return History(inputs, frozenset(row["path"] for row in steps), ended)
