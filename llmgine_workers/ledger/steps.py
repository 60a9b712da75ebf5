"""Steps: claimed in one statement, fenced in every write after it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import (
    Billed,
    Claim,
    Finish,
    Hinted,
    Released,
    StepKey,
)

_READ = """
select s.state = 'queued' and j.state = 'active' and j.ending is null
           and j.expires_at > now() as runnable,
       s.kind, s.pool, s.tenant, s.class as priority, j.chain_name as chain, j.run,
       j.stream, p.body as request,
       s.model, s.timeout_s, s.tries, s.crashes, s.max_attempts, j.expires_at,
       j.max_cost is not null as has_budget, s.given_up
from steps s join jobs j on j.id = s.job_id
join payloads p on p.job_id = s.job_id and p.path = s.path and p.kind = 'request'
where s.job_id = $1 and s.path = $2
"""

_CLAIM = """
with claimed as (
    update steps s set state = 'running', fence = s.fence + 1, calls = s.calls + 1,
        worker = $3, claim_id = $4, reason = null, detail = null,
        call_deadline = now() + s.timeout_s * interval '1 second',
        started_at = coalesce(s.started_at, now())
    from jobs j, workers w
    where s.job_id = $1 and s.path = $2 and s.state = 'queued' and s.pool = $5
      and j.id = s.job_id and j.state = 'active' and j.ending is null
      and j.expires_at > now() and w.id = $3 and w.dead_at is null
    returning s.fence, s.calls, s.model, j.run
), attempt as (
    insert into attempts (job_id, path, n, id, run, fence, worker, model, simulated,
                          reserved)
    select $1, $2, calls, $4, run, fence, $3, model, $6, $7 from claimed
)
select fence, calls from claimed
union all
select fence, calls from steps
where job_id = $1 and path = $2 and claim_id = $4 and state = 'running'
"""

_ROOM = """
select j.max_cost - coalesce(sum(case when a.state in ('started', 'ambiguous')
                                      then a.reserved else a.cost end), 0) as room,
       count(*) filter (where a.state = 'started') as calling
from jobs j left join attempts a on a.job_id = j.id and a.run = j.run
where j.id = $1 group by j.max_cost
"""

_AGAIN = """
with claimed as (
    update steps set calls = calls + 1
    where job_id = $1 and path = $2 and fence = $3 and state = 'running'
      and not exists (select from attempts where job_id = $1 and path = $2 and id = $4)
    returning calls, worker, model
), attempt as (
    insert into attempts (job_id, path, n, id, run, fence, worker, model, simulated,
                          reserved)
    select $1, $2, calls, $4, $5, $3, worker, model, $6, $7 from claimed
)
select calls from claimed
union all
select n from attempts a join steps s using (job_id, path)
where job_id = $1 and path = $2 and a.id = $4 and s.fence = $3 and s.state = 'running'
"""

# What was ambiguous once stays so: the call was made again, and the bill says that.
_CLOSE = """
update attempts set state = case state when 'ambiguous' then state else $4 end,
    failure = $5, status = $6, request_id = $7,
    input_tokens = $8, cached_input_tokens = $9, output_tokens = $10,
    reasoning_tokens = $11, cost = $12, price_version = $13, first_token_at = $14,
    finished_at = now()
where job_id = $1 and path = $2 and n = $3
"""

_WAIT = """
update steps set state = 'waiting', wake_at = now() + $3 * interval '1 second',
    waiting_since = now(), reason = $4, detail = $5
where job_id = $1 and path = $2 and state = 'queued'
"""

_RETRY = """
update steps set state = 'waiting', wake_at = now() + $4 * interval '1 second',
    waiting_since = now(), reason = $5, detail = $6, failure = $7,
    tries = tries + $8, worker = null
where job_id = $1 and path = $2 and fence = $3 and state = 'running'
"""

_SETTLE = f"""
with attempt as ({_CLOSE}), step as (
    update steps set state = $15, failure = $5, finish_reason = $16, worker = null,
        finished_at = now()
    where job_id = $1 and path = $2 and fence = $17 and state = 'running'
    returning true as ours
), payload as (
    insert into payloads (job_id, path, kind, body)
    select $1, $2, 'output', $18::text from step where $18::text is not null
)
select ours from step
"""

_GIVE_BACK = """
with back as (
    update steps s set state = 'queued', released_at = null, fence = s.fence + 1,
        worker = null
    where s.job_id = $1 and s.path = $2 and s.fence = $3 and s.state = 'running'
    returning s.calls
)
update attempts a set state = $4, finished_at = now(),
    cost = case when $4 = 'cancelled' then 0 end -- it was never sent
from back
where a.job_id = $1 and a.path = $2 and a.n = back.calls and a.state = 'started'
"""


async def read(ledger: Ledger, key: StepKey) -> Hinted | None:
    """The step a hint points at, if there is one."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_READ, key.job, key.path)
    return Hinted(key=key, **row) if row else None


class NoRoom(Exception):
    """The job's budget has no room; `calling` siblings may still give some back."""

    def __init__(self, calling: int) -> None:
        super().__init__(f"{calling} calls of the job are running")
        self.calling = calling


async def claim(
    ledger: Ledger,
    step: Hinted,
    worker: UUID,
    claim_id: UUID,
    *,
    simulated: bool,
    reserved: int | None,
) -> Claim | None:
    """Row 6: take the step and open its first attempt; None if it is not to be had.

    Repeating it with the same `claim_id` after a lost answer finds the same claim.
    """
    async with ledger.transaction() as connection:
        if step.has_budget:
            await _find_room(connection, step.key.job, claim_id, reserved or 0)
        row = await connection.fetchrow(
            _CLAIM,
            step.key.job, step.key.path, worker, claim_id, step.pool, simulated, reserved,
        )  # fmt: skip
    if row is None:
        return None
    return Claim(step.key, row["fence"], claim_id, row["calls"])


async def next_attempt(
    ledger: Ledger,
    step: Hinted,
    held: Claim,
    attempt: UUID,
    *,
    simulated: bool,
    reserved: int | None,
) -> Claim | None:
    """A further call under the same fence (a retry in place); None if it was lost.

    It needs room like the first; repeating it with the same `attempt` finds the same.
    """
    async with ledger.transaction() as connection:
        if step.has_budget:
            await _find_room(connection, step.key.job, attempt, reserved or 0)
        n = await connection.fetchval(
            _AGAIN,
            step.key.job, step.key.path, held.fence, attempt, step.run, simulated,
            reserved,
        )  # fmt: skip
    return Claim(held.key, held.fence, attempt, n) if n else None


async def close_attempt(
    ledger: Ledger, held: Claim, state: str, billed: Billed, failure: Failure | None
) -> None:
    """What one call used: also for a zombie, whose claim is long gone (row 20)."""
    async with ledger.connection() as connection:
        await write_attempt(connection, held, state, billed, failure)


async def write_attempt(
    connection: Connection,
    held: Claim,
    state: str,
    billed: Billed,
    failure: Failure | None,
) -> None:
    """Close the attempt's row with what was billed."""
    await connection.execute(_CLOSE, *_closing(held, state, billed, failure))


def _closing(
    held: Claim, state: str, billed: Billed, failure: Failure | None
) -> tuple[object, ...]:
    usage = billed.usage
    return (
        held.key.job, held.key.path, held.n, state,
        failure.as_dict() if failure else None, billed.status, billed.request_id,
        usage.input_tokens, usage.cached_input_tokens, usage.output_tokens,
        usage.reasoning_tokens, billed.cost, billed.price_version, billed.first_token_at,
    )  # fmt: skip


async def wait(
    ledger: Ledger, key: StepKey, delay_s: float, reason: str, detail: str
) -> None:
    """Row 5: a gate refused a queued step."""
    async with ledger.connection() as connection:
        await connection.execute(_WAIT, key.job, key.path, delay_s, reason, detail)


async def fail_queued(
    connection: Connection, key: StepKey, state: str, failure: Failure
) -> bool:
    """Row 10 for a step that may not even be called; False if it is not queued."""
    done = await connection.execute(
        "update steps set state = $3, failure = $4, finished_at = now() "
        "where job_id = $1 and path = $2 and state = 'queued'",
        key.job, key.path, state, failure.as_dict(),
    )  # fmt: skip
    return done == "UPDATE 1"


async def retry_later(
    ledger: Ledger,
    finish: Finish,
    delay_s: float,
    reason: str,
    detail: str,
    *,
    spent: int,
) -> None:
    """Row 8: the attempt failed for now; `spent` attempts count as tries."""
    held, failure = finish.claim, finish.failure
    async with ledger.transaction() as connection:
        await write_attempt(connection, held, "failed", finish.billed, failure)
        await connection.execute(
            _RETRY,
            held.key.job, held.key.path, held.fence, delay_s, reason, detail,
            failure.as_dict() if failure else None, spent,
        )  # fmt: skip


async def settle(connection: Connection, finish: Finish, state: str) -> bool:
    """Rows 7 and 10: end a running step under the job's lock, in one statement.

    False for a stale fence: then only the attempt's row was written (row 20).
    """
    held = finish.claim
    return bool(
        await connection.fetchval(
            _SETTLE,
            *_closing(held, finish.state, finish.billed, finish.failure),
            state, finish.finish_reason, held.fence, finish.output,
        )
    )  # fmt: skip


async def was_settled(connection: Connection, held: Claim) -> bool:
    """Whether an earlier commit of ours, with an unknown answer, took after all."""
    return bool(
        await connection.fetchval(
            "select state in ('succeeded', 'failed', 'cancelled') and fence = $3 "
            "from steps where job_id = $1 and path = $2",
            held.key.job, held.key.path, held.fence,
        )
    )  # fmt: skip


async def give_back(ledger: Ledger, claims: Sequence[Claim], attempt_state: str) -> None:
    """Rows 11 and 13: queued and held again, no crash counted."""
    async with ledger.transaction() as connection:
        for held in claims:
            await connection.execute(
                _GIVE_BACK, held.key.job, held.key.path, held.fence, attempt_state
            )


async def unrelease(ledger: Ledger, released: Sequence[Released]) -> None:
    """Hints the broker did not take: their steps are held again."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update steps s set released_at = null "
            "from unnest($1::uuid[], $2::text[]) as lost (job_id, path) "
            "where s.job_id = lost.job_id and s.path = lost.path and s.state = 'queued'",
            [one.key.job for one in released],
            [one.key.path for one in released],
        )


async def _find_room(
    connection: Connection, job: UUID, claim_id: UUID, reserved: int
) -> None:
    # Apart from the sum: one statement would lock now and add up what was before.
    await connection.execute("select from jobs where id = $1 for update", job)
    if await connection.fetchval(
        "select exists (select from attempts where job_id = $1 and id = $2)",
        job,
        claim_id,
    ):
        return
    row = await connection.fetchrow(_ROOM, job)
    if row and row["room"] < reserved:
        raise NoRoom(row["calling"])


def new_claim_id() -> UUID:
    """Also the id of the claim's first attempt."""
    return clock.uuid7()
