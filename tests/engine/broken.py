"""What a schedule must not have broken, read off the ledger afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from llmgine_workers.ledger.records import StepKey
from tests.ledger.rows import Place


@dataclass
class Broken:
    """What the protocol promises never to happen."""

    stuck: list[UUID] = field(default_factory=list)
    overpaid: list[StepKey] = field(default_factory=list)
    wrong_letters: list[UUID] = field(default_factory=list)
    leftovers: list[StepKey] = field(default_factory=list)
    open_attempts: list[StepKey] = field(default_factory=list)
    wrong_winners: list[StepKey] = field(default_factory=list)
    escaped: list[BaseException] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


async def judged(place: Place, job_ids: Sequence[UUID], paid: Counter[StepKey]) -> Broken:
    """Read the ledger, and compare it with the calls that were `paid` for."""
    rows = place.rows
    jobs = await rows("select id, state, run from jobs where id = any($1)", job_ids)
    letters = await rows(
        "select job_id, array_agg(run order by run) as runs, "
        "count(*) filter (where state = 'open') as open "
        "from letters where job_id = any($1) group by job_id",
        job_ids,
    )
    written = {row["job_id"]: (row["runs"], row["open"]) for row in letters}
    steps = await rows(
        "select s.job_id, s.path, s.state, s.fence, "
        "(select body::json->>'text' from payloads p where p.job_id = s.job_id "
        "and p.path = s.path and p.kind = 'output')::int as winner, "
        "count(*) filter (where a.state = 'ambiguous') as doubled, "
        "count(*) filter (where a.state = 'started') as started "
        "from steps s left join attempts a using (job_id, path) "
        "where job_id = any($1) group by 1, 2, 3, 4",
        job_ids,
    )
    ended = {job["id"] for job in jobs if job["state"] != "active"}
    keys = [(StepKey(row["job_id"], row["path"]), row) for row in steps]
    return Broken(
        stuck=[job["id"] for job in jobs if job["id"] not in ended],
        overpaid=[k for k, row in keys if paid[k] > 1 + row["doubled"]],
        wrong_letters=[
            job["id"] for job in jobs
            if job["id"] in ended
            and written.get(job["id"], ([], 0)) != _due_letters(job)
        ],
        leftovers=[
            k for k, row in keys
            if k.job in ended and row["state"] in ("queued", "running", "waiting")
        ],
        open_attempts=[k for k, row in keys if k.job in ended and row["started"]],
        wrong_winners=[
            k for k, row in keys
            if row["state"] == "succeeded" and row["winner"] != row["fence"]
        ],
    )  # fmt: skip


def _due_letters(job: dict[str, Any]) -> tuple[list[int], int]:
    """The runs that failed, and how many of their letters nobody has resolved."""
    failed = job["state"] == "failed"
    return list(range(job["run"] + failed)), int(failed)
