"""What time does to jobs: lost workers, overrun calls, deadlines."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import jobs
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import LockedJob, StepKey

OVERRUN_S = 30
"""How long past its deadline a call is left to the worker that made it."""

SUSPECT_CRASHES = 2
"""From here on a step runs alone of its kind in a process, and alone takes the blame."""

_LOST = """
select s.job_id, s.path, s.fence, s.worker, s.crashes, s.calls,
       w.dead_at is not null or w.stopped_at is not null or w.id is null as crashed
from steps s left join workers w on w.id = s.worker
where s.state = 'running'
  and (w.id is null or w.dead_at is not null or w.stopped_at is not null
       or s.call_deadline < now() - $1 * interval '1 second')
order by s.job_id, s.path limit 500
"""

_TAKE = """
update steps set fence = fence + 1, crashes = crashes + $4, worker = null,
    released_at = null, state = $5, failure = $6,
    finished_at = case when $5 in ('failed', 'cancelled') then now() end
where job_id = $1 and path = $2 and fence = $3 and state = 'running'
returning true
"""


@dataclass(frozen=True)
class Lost:
    """A running step whose worker is gone, or whose call has overrun."""

    key: StepKey
    fence: int
    worker: UUID
    crashes: int
    calls: int
    crashed: bool


@dataclass(frozen=True)
class Taken:
    """What became of a lost step, and of its job if that ended with it."""

    key: StepKey
    state: str
    job_end: str | None = None
    letter: UUID | None = None


async def lost_steps(ledger: Ledger) -> list[Lost]:
    """Running steps to take back, joined anew each tick: a claim may commit late."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_LOST, OVERRUN_S)
    return [
        Lost(
            StepKey(row["job_id"], row["path"]),
            row["fence"],
            row["worker"],
            row["crashes"],
            row["calls"],
            row["crashed"],
        )
        for row in rows
    ]


def blamed(lost: list[Lost]) -> set[StepKey]:
    """Whose crash it is: every step of a dead worker, or only the suspects it ran."""
    workers_with_suspect = {
        one.worker for one in lost if one.crashed and one.crashes >= SUSPECT_CRASHES
    }
    return {
        one.key
        for one in lost
        if one.crashed
        and (one.worker not in workers_with_suspect or one.crashes >= SUSPECT_CRASHES)
    }


async def take_back(
    ledger: Ledger, one: Lost, *, blame: bool, max_crashes: int
) -> Taken | None:
    """Row 12; None if its worker was quicker."""
    async with ledger.transaction() as connection:
        job = await jobs.lock(connection, one.key.job)
        if job is None:
            return None
        crashes = one.crashes + int(blame)
        over = crashes >= max_crashes
        state = "cancelled" if job.ending else "failed" if over else "queued"
        failure = _crashed(one, crashes) if state == "failed" else None
        taken = await connection.fetchval(
            _TAKE, one.key.job, one.key.path, one.fence, int(blame), state,
            failure.as_dict() if failure else None,
        )  # fmt: skip
        if not taken:
            return None
        await _mark_ambiguous(connection, one)
        return await _consequence(connection, job, one.key, state, failure)


async def expired_jobs(ledger: Ledger) -> list[UUID]:
    """Active jobs past their deadline whose end is not decided yet."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select id from jobs where state = 'active' and ending is null "
            "and expires_at <= now() limit 500"
        )
    return [row["id"] for row in rows]


async def end_job(
    ledger: Ledger, job_id: UUID, end: str, failure: Failure | None
) -> Taken | None:
    """Row 15: a time-out or a cancel; None if the job has, or is coming to, an end."""
    async with ledger.transaction() as connection:
        job = await jobs.lock(connection, job_id)
        if job is None or job.state != "active" or job.ending:
            return None
        letter = await jobs.decide_end(connection, job, end, failure)
        return Taken(
            StepKey(job_id, ""), end, await jobs.ended(connection, job_id), letter
        )


async def _consequence(
    connection: Connection,
    job: LockedJob,
    key: StepKey,
    state: str,
    failure: Failure | None,
) -> Taken:
    if state == "queued":
        return Taken(key, state)
    if job.ending:
        failure = await jobs.ending_failure(connection, job.id)
        letter = await jobs.end_if_settled(connection, job, job.ending, failure)
    else:
        letter = await jobs.decide_end(connection, job, "failed", failure)
    return Taken(key, state, await jobs.ended(connection, job.id), letter)


async def _mark_ambiguous(connection: Connection, one: Lost) -> None:
    await connection.execute(
        "update attempts set state = 'ambiguous', finished_at = now() "
        "where job_id = $1 and path = $2 and n = $3 and state = 'started'",
        one.key.job,
        one.key.path,
        one.calls,
    )


def _crashed(one: Lost, crashes: int) -> Failure:
    return Failure(
        "max_crashes",
        f"its worker process died {crashes} times while this step was running",
        step=one.key.path,
        attempts=one.calls,
        exhausted=True,
    )
