"""Failover: a step goes on with another model of its list, in that model's pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmgine_workers.ledger import attempts
from llmgine_workers.ledger.attempts import Closing
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.records import Finish, Released, StepKey
from llmgine_workers.ledger.release import mine

_AFTER_FAILURE = """
update steps set state = 'queued', pool = $4, model = $5, why = $6, failure = $7,
    given_up = case when $9::boolean then array_append(given_up, model) else given_up end,
    tries = case when $9::boolean then 0 else tries + $10 end, worker = null,
    reason = null, detail = null,
    released_at = case when $8::boolean then now() end
where job_id = $1 and path = $2 and fence = $3 and state = 'running'
returning true
"""

_BEFORE_CALL = """
update steps set pool = $4, model = $5, why = $6, reason = null, detail = null,
    given_up = case when $7::boolean then array_append(given_up, model) else given_up end,
    released_at = case when $8::boolean then now() end
where job_id = $1 and path = $2 and model = $3 and state = 'queued'
returning true
"""

# Only what is held: a published step is somebody's to look at, and moves from there.
_AWAY_FROM = """
with held as (
    select s.job_id, s.path, s.model as old, candidate.model
    from steps s cross join lateral (
        select m.model from unnest(s.models) with ordinality as m (model, place)
        where m.model <> s.model and m.model <> all (s.given_up)
          and split_part(m.model, '/', 1) = any ($2::text[])
        order by m.place limit 1
    ) as candidate
    where s.pool = $1 and s.state = 'queued' and s.released_at is null
      and cardinality(s.models) > 1
      and s.created_at < now() - $3 * interval '1 second'
      and ($6::text[] is null or s.model = any ($6))
    order by s.class, s.tenant, s.job_id limit $4 -- as its index has them
    for update of s skip locked
)
update steps s set pool = split_part(held.model, '/', 1), model = held.model,
    why = $5 || held.old
from held where s.job_id = held.job_id and s.path = held.path
returning s.job_id, s.path, held.old, s.model
"""


@dataclass(frozen=True)
class Move:
    """To which model, why (for people), and whether its pool's broker is told at once."""

    model: str
    why: str
    release: bool

    @property
    def pool(self) -> str:
        """The pool of the model's provider."""
        return self.model.partition("/")[0]


@dataclass(frozen=True)
class Moved:
    """A step that now waits for another model."""

    key: StepKey
    old: str
    model: str


async def after_failure(
    ledger: Ledger, finish: Finish, move: Move, *, spent: int | None = None
) -> bool:
    """Row 9: the attempt is closed, its model given up; False for a stale fence.

    With `spent`, so many attempts count as tries, and the step may come back to it.
    """
    held, failure = finish.claim, finish.failure
    async with ledger.transaction() as connection:
        closing = Closing(held, "failed", finish.billed, failure)
        await attempts.write_closings(connection, [closing])
        return bool(
            await connection.fetchval(
                _AFTER_FAILURE,
                held.key.job, held.key.path, held.fence, move.pool, move.model, move.why,
                failure.as_dict() if failure else None, move.release,
                spent is None, spent or 0,
            )
        )  # fmt: skip


async def before_call(
    ledger: Ledger, key: StepKey, old: str, move: Move, *, for_good: bool
) -> bool:
    """Row 9 for a step no call was made of; `for_good`: it never comes back to `old`."""
    async with ledger.connection() as connection:
        return bool(
            await connection.fetchval(
                _BEFORE_CALL,
                key.job, key.path, old, move.pool, move.model, move.why, for_good,
                move.release,
            )
        )  # fmt: skip


async def away_from(
    ledger: Ledger,
    pool: str,
    room: Mapping[str, int],
    held_for_s: float,
    why: str,
    *,
    only: Sequence[str] | None = None,
) -> list[Moved]:
    """Row 9 for steps held in a shut pool: to the first provider of their list in `room`.

    At most as many as the roomiest has room for; `why` comes before the old model;
    `only` steps of these models, where it is given.
    """
    async with ledger.transaction() as connection:
        if not room or not await mine(connection, f"away from {pool}"):
            return []
        rows = await connection.fetch(
            _AWAY_FROM, pool, list(room), held_for_s, max(room.values()), why, only
        )
    return [
        Moved(StepKey(row["job_id"], row["path"]), row["old"], row["model"])
        for row in rows
    ]


def released(key: StepKey, move: Move, chain: str, run: int) -> list[Released]:
    """What the broker is told of a move that was released."""
    return [Released(key, move.pool, chain, run)] if move.release else []
