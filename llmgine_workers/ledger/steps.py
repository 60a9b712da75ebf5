"""Steps: read by a hint, waiting, settled; fenced in every write after a claim."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine_workers.errors import Failure
from llmgine_workers.ledger import attempts
from llmgine_workers.ledger.attempts import Closing
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import Claim, Finish, Hinted, Released, StepKey

_READ = """
select hint.place, s.state = 'queued' and j.state = 'active' and j.ending is null
           and j.expires_at > now() as runnable,
       s.kind, s.pool, s.tenant, s.class as priority, j.chain_name as chain, j.run,
       j.stream, p.body as request,
       s.model, s.timeout_s, s.tries, s.crashes, s.max_attempts, j.expires_at,
       j.max_cost is not null as has_budget, s.given_up
from unnest($1::uuid[], $2::text[]) with ordinality as hint (job_id, path, place)
join steps s on s.job_id = hint.job_id and s.path = hint.path
join jobs j on j.id = hint.job_id
join payloads p on p.job_id = hint.job_id and p.path = hint.path and p.kind = 'request'
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
with closing as (
    select * from {attempts.CLOSING}
    join unnest($15::text[], $16::text[], $17::int[], $18::text[])
         with ordinality as ending (step_state, finish_reason, fence, output, place)
    using (place)
), attempt as ({attempts.CLOSE}), step as (
    update steps s set state = step_state, failure = closing.failure,
        finish_reason = closing.finish_reason, worker = null, finished_at = now()
    from closing
    where s.job_id = closing.job_id and s.path = closing.path
      and s.fence = closing.fence and s.state = 'running'
    returning s.job_id, s.path, place, output
), payload as (
    insert into payloads (job_id, path, kind, body)
    select job_id, path, 'output', output from step where output is not null
)
select place from step
"""

_SETTLED = """
select place from unnest($1::uuid[], $2::text[], $3::int[])
    with ordinality as mine (job_id, path, fence, place)
join steps s using (job_id, path, fence)
where s.state in ('succeeded', 'failed', 'cancelled')
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


_UNRELEASE = """
with lost as materialized (
    select job_id, path from unnest($1::uuid[], $2::text[]) as lost (job_id, path)
    join steps s using (job_id, path) where s.state = 'queued'
    order by job_id, path for update of s
)
update steps s set released_at = null
from lost where s.job_id = lost.job_id and s.path = lost.path
"""


async def read(ledger: Ledger, keys: Sequence[StepKey]) -> list[Hinted | None]:
    """The steps that hints point at; None where there is none."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            _READ, [key.job for key in keys], [key.path for key in keys]
        )
    found: list[Hinted | None] = [None for _ in keys]
    for row in rows:
        columns = dict(row)
        place = columns.pop("place") - 1
        found[place] = Hinted(key=keys[place], **columns)
    return found


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
        closing = Closing(held, "failed", finish.billed, failure)
        await attempts.write_closings(connection, [closing])
        await connection.execute(
            _RETRY,
            held.key.job, held.key.path, held.fence, delay_s, reason, detail,
            failure.as_dict() if failure else None, spent,
        )  # fmt: skip


async def settle(
    connection: Connection, ends: Sequence[tuple[Finish, str]]
) -> list[bool]:
    """Rows 7 and 10: end running steps, in that state, under their jobs' locks.

    False for a stale fence: then only the attempt's row was written (row 20).
    """
    closings = [Closing(f.claim, f.state, f.billed, f.failure) for f, _ in ends]
    rows = await connection.fetch(
        _SETTLE,
        *attempts.columns(closings),
        [state for _, state in ends],
        [finish.finish_reason for finish, _ in ends],
        [finish.claim.fence for finish, _ in ends],
        [finish.output for finish, _ in ends],
    )
    settled = {row["place"] for row in rows}
    return [place in settled for place in range(1, len(ends) + 1)]


async def were_settled(connection: Connection, claims: Sequence[Claim]) -> set[Claim]:
    """Those that an earlier commit of ours, with an unknown answer, settled after all."""
    if not claims:
        return set()
    rows = await connection.fetch(
        _SETTLED,
        [held.key.job for held in claims],
        [held.key.path for held in claims],
        [held.fence for held in claims],
    )
    return {claims[row["place"] - 1] for row in rows}


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
            _UNRELEASE,
            [one.key.job for one in released],
            [one.key.path for one in released],
        )
