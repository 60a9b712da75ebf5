"""What time does to jobs: lost workers, overrun calls, deadlines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import jobs
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import Claim, LockedJob, StepKey

OVERRUN_S = 30
"""How long past its deadline a call is left to the worker that made it."""

SUSPECT_CRASHES = 2
"""From here on a step runs alone of its kind in a process, and alone takes the blame."""

# A suspect comes last: whatever stops the sweep, the others are not blamed in its place.
_LOST = """
with lost as (
    select s.job_id, s.path, s.fence, s.worker, s.claim_id, s.crashes, s.calls,
           w.id is null or w.dead_at is not null or w.stopped_at is not null as crashed
    from steps s left join workers w on w.id = s.worker
    where s.state = 'running'
      and (w.id is null or w.dead_at is not null or w.stopped_at is not null
           or s.call_deadline < now() - $1 * interval '1 second')
)
select *, not crashed or crashes >= $2 or not exists (
    select from steps suspect where suspect.state = 'running'
    and suspect.worker = lost.worker and suspect.crashes >= $2) as blamed
from lost order by crashes >= $2, job_id, path limit 500
"""

_TAKE = """
update steps set fence = fence + 1, crashes = $4, worker = null, released_at = null,
    state = $5, failure = $6, finished_at = case when $5 <> 'queued' then now() end
where job_id = $1 and path = $2 and fence = $3 and state = 'running'
returning true
"""

_MARK_AMBIGUOUS = """
update attempts set state = 'ambiguous', finished_at = now()
where job_id = $1 and path = $2 and n = $3 and state = 'started'
"""


@dataclass(frozen=True)
class Lost:
    """A running step whose worker is gone, or whose call has overrun."""

    claim: Claim
    worker: UUID
    crashes: int
    blamed: bool

    @property
    def key(self) -> StepKey:
        """The step."""
        return self.claim.key

    @property
    def fence(self) -> int:
        """As it was read: another has been quicker if it is not that any more."""
        return self.claim.fence

    @property
    def crashes_now(self) -> int:
        """This one included, if it is the step's own."""
        return self.crashes + int(self.blamed)


@dataclass(frozen=True)
class Taken:
    """What became of a lost step, and of its job if that ended with it."""

    key: StepKey
    state: str
    job_end: str | None = None
    letter: UUID | None = None


async def lost_steps(ledger: Ledger) -> list[Lost]:
    """Running steps to take back, joined anew each tick: a claim may commit late.

    A call that overran is to blame for it; of a dead worker's, every one, or only the
    suspects if it ran any.
    """
    async with ledger.connection() as connection:
        rows = await connection.fetch(_LOST, OVERRUN_S, SUSPECT_CRASHES)
    return [
        Lost(
            Claim(
                StepKey(row["job_id"], row["path"]),
                row["fence"],
                row["claim_id"],
                row["calls"],
            ),
            row["worker"],
            row["crashes"],
            row["blamed"],
        )
        for row in rows
    ]


async def take_back(ledger: Ledger, one: Lost) -> Taken | None:
    """Row 12: queued and held again, unless its job is ending; None if its worker was
    quicker."""
    async with ledger.transaction() as connection:
        job = await jobs.lock(connection, one.key.job)
        state = "cancelled" if job and job.ending else "queued"
        if not (job and await _take(connection, one, state, None)):
            return None
        if job.ending:
            return await _end(connection, job, job.ending, Taken(one.key, state))
        return Taken(one.key, state)


async def give_up(
    connection: Connection, one: Lost, state: str, failure: Failure
) -> bool:
    """The last crash a step may have; False if its worker was quicker."""
    return await _take(connection, one, state, failure)


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


async def idle_endings(ledger: Ledger) -> list[UUID]:
    """Jobs that are ending, with no call running any more that could settle it."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select id from jobs where ending is not null and not exists "
            "(select from steps where job_id = jobs.id and state = 'running') limit 500"
        )
    return [row["id"] for row in rows]


async def settle_ending(ledger: Ledger, job_id: UUID) -> Taken | None:
    """Row 16, late: retries and what is given back do not lock the job, so its end may
    have been decided behind their back. None if it has ended meanwhile."""
    async with ledger.transaction() as connection:
        job = await jobs.lock(connection, job_id)
        if job is None or not job.ending:
            return None
        await jobs.stop_unclaimed(connection, job_id)
        return await _end(
            connection, job, job.ending, Taken(StepKey(job_id, ""), "cancelled")
        )


async def _take(
    connection: Connection, one: Lost, state: str, failure: Failure | None
) -> bool:
    taken = await connection.fetchval(
        _TAKE, one.key.job, one.key.path, one.fence, one.crashes_now, state,
        failure.as_dict() if failure else None,
    )  # fmt: skip
    if taken:
        await connection.execute(_MARK_AMBIGUOUS, one.key.job, one.key.path, one.claim.n)
    return bool(taken)


async def _end(connection: Connection, job: LockedJob, end: str, taken: Taken) -> Taken:
    failure = await jobs.ending_failure(connection, job.id)
    letter = await jobs.end_if_settled(connection, job, end, failure)
    return replace(taken, job_end=await jobs.ended(connection, job.id), letter=letter)
