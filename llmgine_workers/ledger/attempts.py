"""Attempts: each physical call has a row, opened before it and closed after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import Billed, Claim, Hinted

# The steps are locked in the order of their keys, as by everybody who locks several:
# so two workers with overlapping sets never wait for each other.
_CLAIM = """
with wanted as (
    select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[],
                         $6::bool[], $7::bigint[])
    as wanted (job_id, path, claim_id, claimer, pool, simulated, reserved)
), free as materialized (
    select job_id, path, wanted.claim_id, claimer, simulated, reserved
    from wanted join steps s using (job_id, path)
    where s.state = 'queued' and s.pool = wanted.pool
    order by job_id, path for update of s
), claimed as (
    update steps s set state = 'running', fence = s.fence + 1, calls = s.calls + 1,
        worker = claimer, claim_id = free.claim_id, reason = null, detail = null,
        call_deadline = now() + s.timeout_s * interval '1 second',
        started_at = coalesce(s.started_at, now())
    from free, jobs j, workers w
    where s.job_id = free.job_id and s.path = free.path
      and j.id = free.job_id and j.state = 'active' and j.ending is null
      and j.expires_at > now() and w.id = claimer and w.dead_at is null
    returning s.job_id, s.path, s.claim_id, s.fence, s.calls, s.worker, s.model, j.run,
              free.simulated, free.reserved
), attempt as (
    insert into attempts (job_id, path, n, id, run, fence, worker, model, simulated,
                          reserved)
    select job_id, path, calls, claim_id, run, fence, worker, model, simulated, reserved
    from claimed
)
select claim_id, fence, calls from claimed
union all
select claim_id, s.fence, s.calls
from wanted join steps s using (job_id, path, claim_id) where s.state = 'running'
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

CLOSING = """
    unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::jsonb[], $6::int[],
           $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
           $12::bigint[], $13::text[], $14::timestamptz[])
    with ordinality as closing (job_id, path, n, state, failure, status, request_id,
        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost,
        price_version, first_token_at, place)
"""
"""The values of `columns`, as a table of closings."""

# What was ambiguous once stays so: the call was made again, and the bill says that.
CLOSE = """
update attempts a set state = case a.state when 'ambiguous' then a.state
                                           else closing.state end,
    failure = closing.failure, status = closing.status, request_id = closing.request_id,
    input_tokens = closing.input_tokens,
    cached_input_tokens = closing.cached_input_tokens,
    output_tokens = closing.output_tokens, reasoning_tokens = closing.reasoning_tokens,
    cost = closing.cost, price_version = closing.price_version,
    first_token_at = closing.first_token_at, finished_at = now()
from closing
where a.job_id = closing.job_id and a.path = closing.path and a.n = closing.n
"""

_CLOSE_ALL = f"with closing as (select * from {CLOSING}) {CLOSE}"


class NoRoom(Exception):
    """The job's budget has no room; `calling` siblings may still give some back."""

    def __init__(self, calling: int) -> None:
        super().__init__(
            f"max_cost_usd has no room beside the job's {calling} running calls"
        )
        self.calling = calling


@dataclass(frozen=True)
class Opening:
    """A step to be claimed and the first attempt of it, which has the claim's id.

    `reserved` is in micro-dollars, None if the call has no price.
    """

    step: Hinted
    worker: UUID
    claim_id: UUID
    simulated: bool
    reserved: int | None


@dataclass(frozen=True)
class Closing:
    """How one physical call ended, and what it used."""

    claim: Claim
    state: str
    billed: Billed
    failure: Failure | None


async def claim(ledger: Ledger, wanted: Sequence[Opening]) -> list[Claim | None]:
    """Row 6: take steps and open their first attempts; None for one not to be had.

    None of them may be of a job with a budget. Repeating it with the same claim ids
    after a lost answer finds the same claims.
    """
    async with ledger.connection() as connection:
        return await open_all(connection, wanted)


async def claim_within_budget(ledger: Ledger, wanted: Opening) -> Claim | None:
    """The same for one step of a job with `max_cost`; NoRoom if that is used up."""
    async with ledger.transaction() as connection:
        job, reserved = wanted.step.key.job, wanted.reserved or 0
        await find_room(connection, job, wanted.claim_id, reserved)
        (found,) = await open_all(connection, [wanted])
        return found


async def next_attempt(ledger: Ledger, held: Claim, wanted: Opening) -> Claim | None:
    """A further call under the same fence (a retry in place); None if it was lost.

    It needs room like the first; repeating it with the same id finds the same.
    """
    step = wanted.step
    async with ledger.transaction() as connection:
        if step.has_budget:
            reserved = wanted.reserved or 0
            await find_room(connection, step.key.job, wanted.claim_id, reserved)
        return await open_again(connection, held, wanted)


async def open_again(
    connection: Connection, held: Claim, wanted: Opening
) -> Claim | None:
    """A further call inside a transaction that has found room for it."""
    step = wanted.step
    n = await connection.fetchval(
        _AGAIN,
        step.key.job, step.key.path, held.fence, wanted.claim_id, step.run,
        wanted.simulated, wanted.reserved,
    )  # fmt: skip
    return Claim(held.key, held.fence, wanted.claim_id, n) if n else None


async def close(ledger: Ledger, closings: Sequence[Closing]) -> list[None]:
    """What calls used: also for a zombie, whose claim is long gone (row 20)."""
    async with ledger.connection() as connection:
        await write_closings(connection, closings)
    return [None for _ in closings]


async def write_closings(connection: Connection, closings: Sequence[Closing]) -> None:
    """Close attempts' rows with what was billed."""
    await connection.execute(_CLOSE_ALL, *columns(closings))


def columns(closings: Sequence[Closing]) -> list[list[object]]:
    """The parameters of CLOSING."""
    return [list(column) for column in zip(*map(_row, closings), strict=True)]


def new_claim_id() -> UUID:
    """Also the id of the claim's first attempt."""
    return clock.uuid7()


async def open_all(
    connection: Connection, wanted: Sequence[Opening]
) -> list[Claim | None]:
    """Claim inside a transaction that has found room for all of them."""
    rows = await connection.fetch(
        _CLAIM,
        [one.step.key.job for one in wanted],
        [one.step.key.path for one in wanted],
        [one.claim_id for one in wanted],
        [one.worker for one in wanted],
        [one.step.pool for one in wanted],
        [one.simulated for one in wanted],
        [one.reserved for one in wanted],
    )
    won = {row["claim_id"]: row for row in rows}
    return [
        Claim(one.step.key, row["fence"], one.claim_id, row["calls"])
        if (row := won.get(one.claim_id))
        else None
        for one in wanted
    ]


def _row(one: Closing) -> tuple[object, ...]:
    key, billed, usage = one.claim.key, one.billed, one.billed.usage
    return (
        key.job, key.path, one.claim.n, one.state,
        one.failure.as_dict() if one.failure else None, billed.status, billed.request_id,
        usage.input_tokens, usage.cached_input_tokens, usage.output_tokens,
        usage.reasoning_tokens, billed.cost, billed.price_version, billed.first_token_at,
    )  # fmt: skip


async def has_attempt(connection: Connection, job: UUID, attempt: UUID) -> bool:
    """Whether an earlier commit of ours, with its answer lost, has opened it already."""
    return bool(
        await connection.fetchval(
            "select exists (select from attempts where job_id = $1 and id = $2)",
            job, attempt,
        )
    )  # fmt: skip


async def find_room(
    connection: Connection, job: UUID, claim_id: UUID, reserved: int
) -> None:
    """Room in the job's own budget, whose row is locked from now on; else NoRoom."""
    # Apart from the sum: one statement would lock now and add up what was before.
    await connection.execute("select from jobs where id = $1 for update", job)
    if await has_attempt(connection, job, claim_id):
        return
    row = await connection.fetchrow(_ROOM, job)
    if row and row["room"] < reserved:
        raise NoRoom(row["calling"])
