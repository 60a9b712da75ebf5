"""What follows from steps that have ended: their jobs' next steps, or their ends.

All of it runs in one transaction, under the locks of the jobs it is about.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from chains import Chain, Plan
from llmgine_workers.engine import next_up
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.planning import new_step
from llmgine_workers.errors import Failure, Refusal, StepFailed
from llmgine_workers.ledger import jobs
from llmgine_workers.ledger.connection import Connection
from llmgine_workers.ledger.history import History
from llmgine_workers.ledger.new_steps import Owner
from llmgine_workers.ledger.records import Finish, LockedJob, NewStep

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass
class Consequence:
    """What one transaction did to a job; told to the world after its commit."""

    job: LockedJob
    settled: list[tuple[Finish, str]] = field(default_factory=list)
    queued: tuple[NewStep, ...] = ()
    released: list[bool] = field(default_factory=list)
    open_steps: int = 0
    end: str | None = None
    failure: Failure | None = None
    letter: UUID | None = None


Going: TypeAlias = tuple[Consequence, Chain]
"""A job that goes on, by its chain."""


@dataclass(frozen=True)
class _Next:
    """What a plan says, as the ledger takes it; `output` is JSON once all has ended."""

    told: Consequence
    plan: Plan
    fresh: tuple[NewStep, ...]
    output: str | None

    @property
    def owner(self) -> Owner:
        job = self.told.job
        return job.id, job.tenant, job.priority


async def follow(
    rt: Runtime, connection: Connection, told: Sequence[Consequence]
) -> None:
    """Decide and write what is next for jobs whose steps have just been settled."""
    going = []
    for one in told:
        if one.job.ending:
            await end(connection, one)
            continue
        chain = await rt.chains.of(connection, one.job.chain_version)
        assert chain is not None  # noqa: S101 - a job's version is stored before the job
        going.append((one, chain))
    await go_on(rt, connection, going)


async def go_on(rt: Runtime, connection: Connection, going: Sequence[Going]) -> None:
    """Plan and write what the plans say; an error in one fails its job, not a result."""
    while going:
        chains = {told.job.id: chain for told, chain in going}
        pasts = await next_up.read(connection, chains)
        nexts, changed = [], []
        for told, chain in going:
            found = await _planned(rt, connection, told, chain, pasts[told.job.id])
            if found and await _skips(connection, found):
                changed.append((told, chain))
            elif found:
                nexts.append(found)
        await _write(rt, connection, nexts)
        going = changed


async def _planned(
    rt: Runtime, connection: Connection, told: Consequence, chain: Chain, past: History
) -> _Next | None:
    """What is to be written; None if the job is failing."""
    told.open_steps = past.open
    try:
        found = _next(rt, told, chain, past)
    except Exception as error:  # a bug of ours must not cost the result either
        await decide(connection, told, _planning_failure(told.job, error))
        return None
    if found.plan.failed:
        just_now = {finish.claim.key.path for finish, _ in told.settled}
        failure = next_up.failure_of(found.plan.failed, past, just_now)
        await decide(connection, told, failure)
        return None
    return found


async def _skips(connection: Connection, found: _Next) -> bool:
    """Whether steps were passed over, so that the job's past is another."""
    return await jobs.skip_unclaimed(connection, found.told.job.id, found.plan.unwanted)


async def decide(connection: Connection, told: Consequence, failure: Failure) -> None:
    """The job fails, now or when its last call has ended."""
    told.failure = failure
    told.letter = await jobs.decide_end(connection, told.job, "failed", failure)
    told.end = await jobs.ended(connection, told.job.id)


async def end(connection: Connection, told: Consequence) -> None:
    """The end that was decided before, if nothing of the job is running any more."""
    job = told.job
    told.failure = await jobs.ending_failure(connection, job.id)
    told.letter = await jobs.end_if_settled(
        connection, job, job.ending or "failed", told.failure
    )
    told.end = await jobs.ended(connection, job.id)


async def _write(rt: Runtime, connection: Connection, nexts: Sequence[_Next]) -> None:
    for one in nexts:
        job = one.told.job
        one.told.queued = one.fresh
        one.told.released = rt.pools.release_now(
            job.tenant, ((step.pool, job.priority) for step in one.fresh)
        )
        one.told.end = None if one.output is None else "succeeded"
    await jobs.insert_steps(
        connection,
        [(one.owner, step) for one in nexts for step in one.fresh],
        [released for one in nexts for released in one.told.released],
    )
    await jobs.insert_skipped(
        connection, [(one.owner, *step) for one in nexts for step in one.plan.skipped]
    )
    ends = {n.told.job.id: n.output for n in nexts if n.output is not None}
    await jobs.succeed(connection, ends)


def _next(rt: Runtime, told: Consequence, chain: Chain, past: History) -> _Next:
    job = told.job
    found = next_up.replayed(job, chain, past)
    fresh = tuple(new_step(step, rt.models, job.max_attempts) for step in found.ready)
    return _Next(told, found, fresh, as_json(found.output) if found.finished else None)


def _planning_failure(job: LockedJob, error: Exception) -> Failure:
    match error:
        case StepFailed():
            return error.failure
        case Refusal():
            return Failure("provider_rejected", str(error))
    log.error("%s: planning failed", job.id, exc_info=error)
    return Failure("template_failed", f"internal error: {type(error).__name__}")
