"""Row 17: a failed job goes on from the steps that failed; the letter is closed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from llmgine_workers.ledger.connection import Connection
from llmgine_workers.ledger.records import NewStep

_CLOSE = """
with closed as (
    update letters set state = 'resolved', resolution = 'replayed', resolved_by = $2,
        resolved_at = now()
    where id = $1 and state <> 'resolved' returning true as done
), marked as (update mirror set dirty = true where exists (select from closed))
select done from closed
"""

# The row of the action, if one asked for this, is what makes it once.
_TAKE = """
update replay_letters set state = 'replayed', run = $3
where replay = $1 and letter = $2 and state = 'pending'
  and exists (select from replays where id = $1 and state = 'running')
returning true
"""

_REOPEN_JOB = """
update jobs set state = 'active', ending = null, failure = null, finished_at = null,
    run = run + 1, expires_at = now() + timeout_s * interval '1 second'
where id = $1
"""

_REOPEN_STEPS = """
update steps set state = case when kind = 'wait' then 'waiting' else 'queued' end,
    wake_at = case when kind = 'wait' then now() + timeout_s * interval '1 second' end,
    released_at = null, tries = 0,
    crashes = 0, failure = null, finished_at = null, worker = null,
    model = coalesce(models[1], model), given_up = '{}',
    pool = coalesce(split_part(models[1], '/', 1), pool)
where job_id = $1 and (state = 'cancelled' or state = 'failed' and path = any($2))
returning path
"""

# The inputs that were given stay, under the run that they were for.
_KEEP_INPUTS = """
insert into payloads (job_id, path, kind, body)
select job_id, '@' || $2::int, kind, body from payloads
where job_id = $1 and path = '' and kind = 'inputs'
"""
_REPLACE_INPUTS = """
update payloads set body = $2 where job_id = $1 and path = '' and kind = 'inputs'
"""

_REWRITE = """
with new as (
    select * from unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::int[],
                         $7::text[], $8::text[], $9::text[])
    as new (path, pool, request, timeout_s, max_attempts, model, why, models)
), step as (
    update steps s set pool = new.pool, timeout_s = new.timeout_s, model = new.model,
        max_attempts = new.max_attempts, why = new.why,
        models = array(select jsonb_array_elements_text(new.models::jsonb))
    from new where s.job_id = $1 and s.path = new.path
)
update payloads p set body = new.request
from new where p.job_id = $1 and p.path = new.path and p.kind = 'request'
"""


@dataclass(frozen=True)
class Action:
    """A named replay, which may start each of its letters once."""

    id: UUID
    letter: UUID


async def close_letter(connection: Connection, letter: UUID, by: str) -> bool:
    """Resolve a letter as replayed; False if somebody has resolved it before."""
    return bool(await connection.fetchval(_CLOSE, letter, by))


async def take(connection: Connection, action: Action, run: int) -> bool:
    """Whether the action may still start this letter, as that run of its job."""
    return bool(await connection.fetchval(_TAKE, action.id, action.letter, run))


async def reopen(connection: Connection, job: UUID, blamed: Collection[str]) -> list[str]:
    """A new run with a new time-out, for what was cancelled and for the `blamed` steps;
    failures that the chain has got over stay as they are.

    Answers the paths of the steps that will run again.
    """
    await connection.execute(_REOPEN_JOB, job)
    rows = await connection.fetch(_REOPEN_STEPS, job, list(blamed))
    return [row["path"] for row in rows]


async def change_inputs(connection: Connection, job: UUID, run: int, inputs: str) -> None:
    """Other inputs (JSON) from now on; those of `run` are kept beside them."""
    await connection.execute(_KEEP_INPUTS, job, run)
    await connection.execute(_REPLACE_INPUTS, job, inputs)


async def change_chain(connection: Connection, job: UUID, version: str) -> None:
    """Another version of the chain, for this job alone and from now on."""
    await connection.execute(
        "update jobs set chain_version = $2 where id = $1", job, version
    )


async def rewrite(connection: Connection, job: UUID, steps: Sequence[NewStep]) -> None:
    """Requests, models and limits of steps that run again."""
    await connection.execute(
        _REWRITE,
        job,
        [step.path for step in steps],
        [step.pool for step in steps],
        [step.request for step in steps],
        [step.timeout_s for step in steps],
        [step.max_attempts for step in steps],
        [step.model for step in steps],
        [step.why for step in steps],
        [orjson.dumps(step.models).decode() for step in steps],
    )
