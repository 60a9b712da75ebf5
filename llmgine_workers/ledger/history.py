"""What a job has behind it: all that `plan()` replays, read at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import UUID

from llmgine_workers.ledger.connection import Connection

_READ = """
select s.path, s.state, p.body, s.failure from steps s left join payloads p
    on p.job_id = s.job_id and p.path = s.path and p.kind = 'output'
where s.job_id = $1
union all
select '', 'inputs', body, null from payloads
where job_id = $1 and path = '' and kind = 'inputs'
"""

_COSTS = """
select path, sum(case when state in ('started', 'ambiguous') then reserved else cost end)
    as cost
from attempts where job_id = $1 group by path
"""


class Past(NamedTuple):
    """A step that has ended. `output` is JSON; `cost`, in micro-dollars, is read only
    for chains that count their money."""

    state: Literal["succeeded", "failed", "skipped"]
    output: str | None
    failure: Mapping[str, Any] | None
    cost: int


@dataclass(frozen=True)
class History:
    """A job's inputs (JSON; None when they are no longer kept), the paths of all its
    steps, and those that have ended."""

    inputs: str | None
    known: frozenset[str]
    ended: Mapping[str, Past]


async def read(connection: Connection, job: UUID, *, with_costs: bool) -> History:
    """Read it; under the job's lock it cannot change meanwhile."""
    rows = await connection.fetch(_READ, job)
    paid = await connection.fetch(_COSTS, job) if with_costs else []
    costs = {row["path"]: int(row["cost"] or 0) for row in paid}
    steps = [row for row in rows if row["path"]]
    inputs = next((row["body"] for row in rows if not row["path"]), None)
    ended = {
        row["path"]: Past(
            row["state"], row["body"], row["failure"], costs.get(row["path"], 0)
        )
        for row in steps
        if row["state"] in ("succeeded", "failed", "skipped")
    }
    return History(inputs, frozenset(row["path"] for row in steps), ended)
