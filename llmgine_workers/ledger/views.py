"""Jobs and steps as people see them: the public shapes, straight from the tables.

`queued`, `running` and `waiting` of a job are derived from its steps, usage and cost
from its attempts; nothing is counted twice because nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from llmgine_workers.ledger import shown
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.shown import JOB_STATES, STEP_STATES, TOKENS

PAGE_BYTES = 8 * 1024**2
"""Inputs and outputs on one page of jobs; the page ends early rather than exceed it."""

SCANNED = 5_000
"""Jobs one page looks at, however few of them are wanted."""

_MOST_ID = (1 << 128) - 1
_DAY_OF_IDS = 86_400_000 << 80
"""How far UUIDv7s of two moments a day apart are from each other."""

_SUMS = ", ".join(f"coalesce(sum({name}), 0)::bigint as {name}" for name in TOKENS)
SPENT = f"""
    select count(model) as model_calls, {_SUMS},
           coalesce(sum(cost), 0)::bigint as cost,
           coalesce(bool_or(cost is null and state not in ('started', 'ambiguous')),
                    false) as unpriced,
           coalesce(sum(reserved) filter (where state = 'ambiguous'), 0)::bigint as doubt,
           coalesce(bool_or(model is not null and reserved is null
                            and state = 'ambiguous'), false) as doubt_unpriced,
           coalesce(bool_or(simulated), false) as made_up
    from attempts
"""
"""What the attempts of a job, or of a step, used and cost."""

_COUNTS = ", ".join(
    f"count(*) filter (where state = '{state}') as {state}" for state in STEP_STATES
)
_PROGRESS = f"""
    select min(started_at) as started_at, {_COUNTS},
           count(*) filter (where state in ('queued', 'running', 'waiting')) as unfinished
    from steps
"""

_SHOWN_STATE = """
    case when j.state <> 'active' then j.state
         when p.unfinished > 0 and p.waiting = p.unfinished then 'waiting'
         when j.run = 0 and p.started_at is null then 'queued'
         else 'running' end
"""


def _select_jobs(source: str, job: str, letters: str) -> str:
    """`job` is how its subqueries name a job: with `$1` the planner sees one day only."""
    return f"""
select j.*, p.*, s.*, w.*, {_SHOWN_STATE} as shown, i.body as inputs, o.body as output,
       (select id from letters where job_id = {job} and state = 'open'
        and j.state = 'failed' and {letters} limit 1) as dead_letter
from {source} j
cross join lateral ({_PROGRESS} where job_id = {job}) p
cross join lateral ({SPENT} where job_id = {job}) s
left join lateral (select reason, detail, waiting_since, wake_at from steps
                   where job_id = {job} and state = 'waiting'
                   order by wake_at limit 1) w on true
left join payloads i on i.job_id = {job} and i.path = '' and i.kind = 'inputs'
left join payloads o on o.job_id = {job} and o.path = '' and o.kind = 'output'
"""


def _select_steps(more: str = "") -> str:
    return f"""
select st.*, s.*, o.body as output {more}
from steps st
cross join lateral ({SPENT} where job_id = $1 and path = st.path) s
left join payloads o on o.job_id = $1 and o.path = st.path and o.kind = 'output'
where st.job_id = $1 and ($2::text is null or st.tenant = $2)
"""


_ONE_JOB = f"""
{_select_jobs("jobs", "$1", "id >= $3")}
where j.id = $1 and ($2::text is null or j.tenant = $2)
"""


# The newest are looked at first, and never more than so many: whoever filters for what
# is rare gets short pages, and each costs the same however much there is.
def _select_page(of_batch: str) -> str:
    return f"""
with wanted as materialized (
    select j.id from (
        select * from jobs where tenant = $1 and id < $2 and id >= $3 {of_batch}
        order by id desc limit $10
    ) j cross join lateral ({_PROGRESS} where job_id = j.id) p
    where ($5::text is null or j.chain_name = $5) and j.metadata @> $6
      and ($7::timestamptz is null or j.created_at > $7)
      and ($4::text is null or {_SHOWN_STATE} = $4)
    order by j.id desc limit $8 + 1
), page as (
    select id, row_number() over newest as place, count(*) over () as found,
           sum((select sum(octet_length(body)) from payloads
                where job_id = wanted.id and path = '')) over newest as bytes
    from wanted window newest as (order by id desc)
), shown as (
    select jobs.*, page.found from jobs join page using (id)
    where place = 1 or place <= $8 and bytes <= $9
)
{_select_jobs("shown", "j.id", "true")} order by j.id desc
"""


_JOBS = _select_page("")
_JOBS_OF_BATCH = _select_page("and batch = $11")

_LAST_SCANNED = """
select id from jobs where tenant = $1 and id < $2 and id >= $3
order by id desc offset $4 limit 1
"""

_JOB_COUNTS = ", ".join(
    f"count(*) filter (where shown = '{state}') as {state}" for state in JOB_STATES
)
_BATCH = f"""
select b.*, t.* from batches b cross join lateral (
    select {_JOB_COUNTS}, coalesce(sum(cost), 0)::bigint as cost,
           coalesce(bool_or(unpriced), false) as unpriced
    from (
        select {_SHOWN_STATE} as shown, s.cost, s.unpriced from jobs j
        cross join lateral ({_PROGRESS} where job_id = j.id) p
        cross join lateral ({SPENT} where job_id = j.id) s
        where j.batch = $1 and j.id >= $3 and j.id < $4
    ) one
) t where b.id = $1 and b.tenant = $2
"""

_STEPS = f"""
{_select_steps()}
  and ($3::text is null or (st.created_at, st.path) >
       (select created_at, path from steps where job_id = $1 and path = $3))
order by st.created_at, st.path limit $4
"""

_FINISHED_STEPS = f"""
{_select_steps()} and st.state in ('succeeded', 'failed', 'skipped', 'cancelled')
order by st.created_at, st.path
"""

# The first of what is going on: a call before a queued step before a waiting one.
_OPEN_STEP = """
select s.path, s.pool, s.model, s.why, s.state, j.ending, s.calls, s.reason, s.detail,
       s.released_at is not null as is_released, s.wake_at as until,
       case s.state when 'waiting' then s.waiting_since when 'queued' then s.created_at
            else (select max(started_at) from attempts
                  where job_id = $1 and path = s.path) end as since,
       count(*) over () - 1 as others
from steps s join jobs j on j.id = s.job_id
where s.job_id = $1 and j.id = $1 and s.state in ('queued', 'running', 'waiting')
order by array_position('{running,queued,waiting}', s.state), s.wake_at, s.created_at
limit 1
"""

_REQUEST = """,
    (select body from payloads where job_id = $1 and path = $3 and kind = 'request')
    as request
"""
_ONE_STEP = f"{_select_steps(_REQUEST)} and st.path = $3"
_ATTEMPTS = "select * from attempts where job_id = $1 and path = $2 order by n"
_READY = """
select to_regclass('jobs') is not null and not pg_is_in_recovery()
       and current_setting('transaction_read_only') = 'off'
"""


@dataclass(frozen=True)
class Wanted:
    """Which jobs a list is to show; None and empty mean any."""

    state: str | None = None
    chain: str | None = None
    batch: UUID | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None


@dataclass(frozen=True)
class OpenStep:
    """A step that is not finished, and how many `others` of its job are not.

    `since`: when its call began, its waiting began, or it became ready. `why` it is this
    model's.
    """

    path: str
    pool: str
    model: str | None
    why: str | None
    state: str
    ending: str | None
    calls: int
    reason: str | None
    detail: str | None
    is_released: bool
    until: datetime | None
    since: datetime
    others: int


@dataclass(frozen=True)
class Page:
    """A part of a list, and where the next part begins: None after the last one."""

    data: list[dict[str, Any]]
    next_cursor: str | None


async def job(ledger: Ledger, tenant: str | None, job_id: UUID) -> dict[str, Any] | None:
    """One job of a tenant (of any, if None is given): one round trip."""
    since = UUID(int=max(job_id.int - _DAY_OF_IDS, 0))  # letters are no older, bar skew
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_ONE_JOB, job_id, tenant, since)
    return shown.job(row) if row else None


async def has_ended(ledger: Ledger, job_id: UUID) -> bool:
    """Whether the job is at an end; also when there is no such job."""
    async with ledger.connection() as connection:
        return not await connection.fetchval(
            "select true from jobs where id = $1 and state = 'active'", job_id
        )


async def jobs(
    ledger: Ledger, tenant: str, wanted: Wanted, *, limit: int, before: UUID | None
) -> Page:
    """A tenant's jobs, newest first: at most `limit` and `PAGE_BYTES`, of `SCANNED`.

    A page may be short, or empty, and have a next one all the same.
    """
    lowest, highest = _ids_of(wanted)
    scope: list[Any] = [tenant, min(before or highest, highest), lowest]
    batch = [wanted.batch] if wanted.batch else []
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            _JOBS_OF_BATCH if batch else _JOBS,
            *scope, wanted.state, wanted.chain, dict(wanted.metadata),
            wanted.created_after, limit, PAGE_BYTES, SCANNED, *batch,
        )  # fmt: skip
        data = [shown.job(row) for row in rows]
        if rows and rows[0]["found"] > len(rows):
            return Page(data, data[-1]["id"])
        if batch:  # smaller than what one page looks at
            return Page(data, None)
        last = await connection.fetchval(_LAST_SCANNED, *scope, SCANNED - 1)
    return Page(data, str(last) if last else None)


def _ids_of(wanted: Wanted) -> tuple[UUID, UUID]:
    """Between which ids they lie, bar skew of clocks: it spares whole days."""
    lowest, highest = 0, _MOST_ID
    if wanted.created_after:
        ms = int(wanted.created_after.timestamp() * 1000)
        lowest = max(0, (ms << 80) - _DAY_OF_IDS)
    if wanted.batch:
        lowest = max(lowest, wanted.batch.int - _DAY_OF_IDS)
        highest = min(highest, wanted.batch.int + _DAY_OF_IDS)
    return UUID(int=min(lowest, _MOST_ID)), UUID(int=max(highest, 0))


async def batch(ledger: Ledger, tenant: str, batch_id: UUID) -> dict[str, Any] | None:
    """One batch of a tenant: its jobs by state, and what they cost so far."""
    lowest, highest = _ids_of(Wanted(batch=batch_id))
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_BATCH, batch_id, tenant, lowest, highest)
    return shown.batch(row) if row else None


async def steps(
    ledger: Ledger, tenant: str | None, job_id: UUID, *, limit: int, after: str | None
) -> Page:
    """The steps of a job in the order they became ready, without their attempts."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_STEPS, job_id, tenant, after, limit + 1)
    data = [shown.step(row) for row in rows[:limit]]
    return Page(data, data[-1]["path"] if len(rows) > limit else None)


async def step(
    ledger: Ledger, tenant: str | None, job_id: UUID, path: str
) -> dict[str, Any] | None:
    """One step with its attempts and its rendered request."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_ONE_STEP, job_id, tenant, path)
        if row is None:
            return None
        attempts = await connection.fetch(_ATTEMPTS, job_id, path)
    return {
        **shown.step(row),
        "attempts": [shown.attempt(attempt) for attempt in attempts],
        "request": shown.value(row["request"]),
    }


async def open_step(ledger: Ledger, job_id: UUID) -> OpenStep | None:
    """What a job is busy with or waits for; None once all its steps are finished."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_OPEN_STEP, job_id)
    return OpenStep(**row) if row else None


async def snapshot(ledger: Ledger, job_id: UUID) -> dict[str, Any] | None:
    """The job and its finished steps: what a reader needs who has lost the stream."""
    found = await job(ledger, None, job_id)
    if found is None:
        return None
    async with ledger.connection() as connection:
        rows = await connection.fetch(_FINISHED_STEPS, job_id, None)
    return {"job": found, "steps": [shown.step(row) for row in rows]}


async def can_accept_jobs(ledger: Ledger) -> bool:
    """Whether the ledger has its tables and takes writes."""
    async with ledger.connection() as connection:
        return bool(await connection.fetchval(_READY))
