"""What a job has behind it: all that `plan()` replays, read at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import UUID

import asyncpg

from llmgine_workers.ledger.connection import Connection

_READ = """
select s.job_id, s.path, s.state, p.body, s.failure from steps s left join payloads p
    on p.job_id = s.job_id and p.path = s.path and p.kind = 'output'
where s.job_id = any($1)
union all
select job_id, '', 'inputs', body, null from payloads
where job_id = any($1) and path = '' and kind = 'inputs'
"""

_COSTS = """
select job_id, path,
       sum(case when state in ('started', 'ambiguous') then reserved else cost end)
       as cost
from attempts where job_id = any($1) group by job_id, path
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

    @property
    def open(self) -> int:
        """How many of its steps have not ended."""
        return len(self.known) - len(self.ended)


async def read(
    connection: Connection, ids: Collection[UUID], *, with_costs: Collection[UUID]
) -> dict[UUID, History]:
    """Read those of several jobs, of some `with_costs`; under their locks they cannot
    change meanwhile."""
    rows: dict[UUID, list[asyncpg.Record]] = {job: [] for job in ids}
    for row in await connection.fetch(_READ, list(ids)):
        rows[row["job_id"]].append(row)
    paid = await connection.fetch(_COSTS, list(with_costs)) if with_costs else []
    costs = {(row["job_id"], row["path"]): int(row["cost"] or 0) for row in paid}
    return {job: _history(some, costs) for job, some in rows.items()}


def _history(
    rows: Sequence[asyncpg.Record], costs: Mapping[tuple[UUID, str], int]
) -> History:
    steps = [row for row in rows if row["path"]]
    inputs = next((row["body"] for row in rows if not row["path"]), None)
    ended = {
        row["path"]: Past(
            row["state"],
            row["body"],
            row["failure"],
            costs.get((row["job_id"], row["path"]), 0),
        )
        for row in steps
        if row["state"] in ("succeeded", "failed", "skipped")
    }
    return History(inputs, frozenset(row["path"] for row in steps), ended)
