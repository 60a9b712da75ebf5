"""Replays as actions: what was asked, which letters, at what pace, how far it came."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.letters import Wanted

MOST = 100_000
"""Letters of one replay: what the mirror holds, too."""

BURST_S = 0.5
"""How much of its rate a replay may catch up on at once, after a pause."""

_CHOSEN = """
select id, job_id, run, state, resolution, row_number() over (order by id) as n
from letters where {condition} and job_id is not null order by id limit {most}
"""

_INSERT_LETTERS = """
, new as (
    insert into replay_letters (replay, letter, n, job_id, state, refused)
    select $1, id, n, job_id,
           case when state = 'resolved' then 'refused' else 'pending' end,
           case when state = 'resolved' then 'it is ' || resolution || ' already' end
    from chosen returning state
)
select count(*) as total, count(*) filter (where state = 'refused') as resolved from new
"""

# What is still to be done of each job, each call at the most that one of its calls was
# reserved or billed. A job without such a call has no estimate.
_ESTIMATE = """
select count(*) filter (where state = 'resolved') as resolved, count(*) as total,
       sum(work.calls) filter (where state <> 'resolved') as calls,
       case when bool_or(work.each is null and state <> 'resolved') then null
            else sum(work.calls * work.each) filter (where state <> 'resolved')
       end::bigint as estimated
from chosen left join lateral (
    select greatest(j.steps_total - (select count(*) from steps where job_id = j.id
                    and state in ('succeeded', 'skipped')), 1) as calls,
           (select max(greatest(reserved, cost)) from attempts
            where job_id = j.id) as each
    from jobs j where j.id = chosen.job_id
) work on true
"""

_INSERT = """
insert into replays (id, state, tenant, asked, edit, rate, canary, stop_if_fail, total,
                     calls, estimated, asked_by, finished_at)
select $1, case when $9 > 0 then 'running' else 'finished' end, $2, $3, $4, $5, $6, $7,
       $8, $10, $11, $12, case when $9 = 0 then now() end
"""

_COUNTS = ", ".join(
    f"count(*) filter (where r.state = '{state}') as {state}"
    for state in ("pending", "succeeded", "failed", "cancelled", "refused")
)
_SHOWN = f"""
select p.*, c.*, p.total - c.pending - c.refused as replayed from replays p
cross join lateral (select {_COUNTS} from replay_letters r where r.replay = $1) c
where p.id = $1 and ($2::text is null or p.tenant = $2)
"""

# Who failed again and was replayed by somebody else has failed for us.
_SETTLE = """
update replay_letters r set state = ended.state
from (
    select o.letter, case when j.id is null or j.run > o.run then 'failed'
                          else j.state end as state
    from replay_letters o left join jobs j on j.id = o.job_id
    where o.replay = $1 and o.state = 'replayed'
      and (j.id is null or j.run > o.run or j.state <> 'active')
) ended
where r.replay = $1 and r.letter = ended.letter
"""

_SEEN = """
select p.rate, p.canary, p.stop_if_fail, p.asked_by, p.edit,
       least(extract(epoch from clock_timestamp() - p.paced_at),
             greatest($2, 1 / p.rate))::float8 as since_s, c.*
from replays p cross join lateral (
    select count(*) filter (where state = 'pending') as pending,
           count(*) filter (where state = 'replayed') as running,
           count(*) filter (where n <= p.canary and state = 'pending') as canary_pending,
           count(*) filter (where n <= p.canary and state = 'replayed') as canary_running,
           count(*) filter (where n <= p.canary and state = 'failed') as canary_failed,
           count(*) filter (where n <= p.canary and state <> 'refused') as canaries
    from replay_letters where replay = $1
) c
where p.id = $1 and p.state = 'running'
"""


@dataclass(frozen=True)
class Chosen:
    """Which letters: by their filters, or by their own or their jobs' ids."""

    wanted: Wanted
    ids: Sequence[UUID] | None = None

    def rows(self) -> tuple[str, list[Any]]:
        """A query of the letters, resolved ones included if they are named."""
        if self.ids is None:
            condition, values = self.wanted.where()
        else:
            condition, values = dataclasses.replace(self.wanted, state=None).where()
            values.append(list(self.ids))
            condition += (
                f" and (id = any(${len(values)}) or job_id = any(${len(values)})"
                " and state <> 'resolved')"
            )
        return _CHOSEN.format(condition=condition, most=MOST), values


@dataclass(frozen=True)
class Extent:
    """What a replay would do: micro-dollars at the most, None if unknown."""

    total: int
    resolved: int
    calls: int
    estimated: int | None


@dataclass(frozen=True)
class NewReplay:
    """A replay as it was asked for."""

    id: UUID
    tenant: str | None
    asked: Mapping[str, Any]
    edit: Mapping[str, Any] | None
    rate: float
    canary: int
    stop_if_fail: float | None
    by: str


@dataclass(frozen=True)
class Seen:
    """A running replay at one moment."""

    rate: float
    canary: int
    stop_if_fail: float | None
    asked_by: str
    edit: Mapping[str, Any] | None
    since_s: float
    pending: int
    running: int
    canary_pending: int
    canary_running: int
    canary_failed: int
    canaries: int


async def extent(ledger: Ledger, chosen: Chosen) -> Extent:
    """How many letters, calls and dollars."""
    async with ledger.connection() as connection:
        return await _extent(connection, chosen)


async def create(ledger: Ledger, new: NewReplay, chosen: Chosen) -> Extent:
    """Write the action with its letters, in one transaction."""
    rows, values = chosen.rows()
    shifted = _shifted(rows, len(values))
    async with ledger.transaction() as connection:
        found = await _extent(connection, chosen)
        # Another replay may have taken some since: what counts is what was written.
        row = await connection.fetchrow(
            f"with chosen as ({shifted}) {_INSERT_LETTERS}", new.id, *values
        )
        assert row is not None  # noqa: S101 - an aggregate has one row
        found = dataclasses.replace(found, **row)
        await connection.execute(
            _INSERT,
            new.id, new.tenant, dict(new.asked), new.edit and dict(new.edit), new.rate,
            new.canary, new.stop_if_fail, found.total, found.total - found.resolved,
            found.calls, found.estimated, new.by,
        )  # fmt: skip
    return found


async def chosen_jobs(ledger: Ledger, chosen: Chosen, limit: int) -> list[dict[str, Any]]:
    """The jobs behind letters that are not resolved: id, chain version, failed step,
    inputs (JSON)."""
    rows, values = chosen.rows()
    async with ledger.connection() as connection:
        found = await connection.fetch(
            f"with chosen as ({rows}) select l.id as letter, j.id, j.chain_version, "
            "l.step, p.body as inputs from chosen c join letters l using (id) "
            "join jobs j on j.id = c.job_id left join payloads p on p.job_id = j.id "
            "and p.path = '' and p.kind = 'inputs' where c.state <> 'resolved' "
            f"order by l.id limit ${len(values) + 1}",
            *values, limit,
        )  # fmt: skip
    return [dict(row) for row in found]


async def found(
    ledger: Ledger, replay: UUID, tenant: str | None = None
) -> dict[str, Any] | None:
    """A replay and its counts."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_SHOWN, replay, tenant)
    return dict(row) if row else None


async def running(ledger: Ledger) -> list[UUID]:
    """The replays that are not over, oldest first."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select id from replays where state = 'running' order by id"
        )
    return [row["id"] for row in rows]


async def look(connection: Connection, replay: UUID) -> Seen | None:
    """How a running replay stands; None if it is over, or another one has its turn.

    The turn ends with the transaction.
    """
    if not await connection.fetchval(
        "select pg_try_advisory_xact_lock(hashtextextended($1::text, 0))", str(replay)
    ):
        return None
    await connection.execute(_SETTLE, replay)
    row = await connection.fetchrow(_SEEN, replay, BURST_S)
    return Seen(**row) if row else None


async def due(connection: Connection, replay: UUID, count: int) -> list[UUID]:
    """The next letters; their share of the rate is used from now on."""
    await connection.execute(
        "update replays set paced_at = greatest(paced_at, clock_timestamp() - "
        "greatest($3, 1 / rate) * interval '1 second') + $2 / rate * interval '1 second' "
        "where id = $1",
        replay, float(count), BURST_S,
    )  # fmt: skip
    rows = await connection.fetch(
        "select letter from replay_letters where replay = $1 and state = 'pending' "
        "order by n limit $2",
        replay, count,
    )  # fmt: skip
    return [row["letter"] for row in rows]


async def refuse(ledger: Ledger, replay: UUID, letter: UUID, why: str) -> None:
    """One letter that cannot be replayed, and why."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update replay_letters set state = 'refused', refused = $3 "
            "where replay = $1 and letter = $2 and state = 'pending'",
            replay, letter, why,
        )  # fmt: skip


async def first_letters(
    ledger: Ledger, replay: UUID, limit: int, *, state: str | None = None
) -> list[dict[str, Any]]:
    """The first letters of a replay, or of those in one state: letter, job, the run that
    it began, state, why it was refused, and the step that had failed."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select r.letter, r.job_id as job, r.run, r.state, r.refused, l.step "
            "from replay_letters r left join letters l on l.id = r.letter "
            "where replay = $1 and ($2::text is null or r.state = $2) "
            "order by n limit $3",
            replay, state, limit,
        )  # fmt: skip
    return [dict(row) for row in rows]


async def end(
    connection: Connection, replay: UUID, state: str, reason: str | None
) -> bool:
    """Finish, stop or abort a running replay; False if it is over already."""
    return bool(
        await connection.fetchval(
            "update replays set state = $2, reason = $3, finished_at = now() "
            "where id = $1 and state = 'running' returning true",
            replay, state, reason,
        )
    )  # fmt: skip


async def _extent(connection: Connection, chosen: Chosen) -> Extent:
    rows, values = chosen.rows()
    row = await connection.fetchrow(f"with chosen as ({rows}) {_ESTIMATE}", *values)
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Extent(row["total"], row["resolved"], int(row["calls"] or 0), row["estimated"])


def _shifted(rows: str, count: int) -> str:
    """The query with its values one place further on."""
    for n in range(count, 0, -1):
        rows = rows.replace(f"${n}", f"${n + 1}")
    return rows
