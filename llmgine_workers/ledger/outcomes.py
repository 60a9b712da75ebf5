"""How jobs ended: the fields of the fact `job.finished`, of several jobs at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import shown
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.views import SPENT
from llmgine_workers.llm import Usage

_ENDED = f"""
select j.id, j.state, j.failure, o.body as output, s.*
from jobs j cross join lateral ({SPENT} where job_id = j.id) s
left join payloads o on o.job_id = j.id and o.path = '' and o.kind = 'output'
where j.id = any($1) and j.state <> 'active'
"""


@dataclass(frozen=True)
class Outcome:
    """What a job came to; `cost_usd` is None while a part of it is unknown."""

    state: str
    output: Any
    error: Failure | None
    usage: Usage
    cost_usd: float | None


async def read(ledger: Ledger, ids: Iterable[UUID]) -> dict[UUID, Outcome]:
    """Of those that have ended."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_ENDED, list(ids))
    return {
        row["id"]: Outcome(
            state=row["state"],
            output=shown.value(row["output"]),
            error=_failure(row),
            usage=Usage(**shown.usage(row)),
            cost_usd=shown.cost(row),
        )
        for row in rows
    }


def _failure(row: asyncpg.Record) -> Failure | None:
    told = row["failure"] if row["state"] == "failed" else None
    return Failure(**told) if told else None
