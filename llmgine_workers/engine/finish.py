"""Finish: commit an answer, decide once what is next, and only then tell anybody.

At most one such transaction runs per job in a process; it takes every finish of the
job that has arrived meanwhile, so a wide job does not queue behind its own row lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from chains import Chain, Plan
from llmgine_workers.engine import next_up, tell
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.planning import new_step
from llmgine_workers.errors import Failure, Refusal, StepFailed
from llmgine_workers.ledger import jobs, steps
from llmgine_workers.ledger.connection import Connection, while_away
from llmgine_workers.ledger.records import Billed, Finish, LockedJob, NewStep

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

log = logging.getLogger(__name__)

Take = Callable[[Connection, str], Awaitable[bool]]
"""Writes a step's end (its state is given) if it is still there to be ended."""


@dataclass
class Consequence:
    """What one finish transaction did; told to the world after its commit."""

    job: LockedJob | None = None
    settled: list[tuple[Finish, str]] = field(default_factory=list)
    repeated: list[Finish] = field(default_factory=list)
    queued: tuple[NewStep, ...] = ()
    released: list[bool] = field(default_factory=list)
    end: str | None = None
    failure: Failure | None = None
    letter: UUID | None = None


class Finisher:
    """The finishes of one process, gathered by job."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._waiting: dict[UUID, list[tuple[Finish, asyncio.Future[bool]]]] = {}

    async def finish(self, finish: Finish) -> bool:
        """Commit it; False if the fence was stale: the step is somebody else's now."""
        job = finish.claim.key.job
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if job in self._waiting:
            self._waiting[job].append((finish, done))
        else:
            self._waiting[job] = [(finish, done)]
            self._rt.spawn(self._work_through(job))
        return await asyncio.shield(done)

    async def _work_through(self, job: UUID) -> None:
        while batch := self._waiting[job]:
            self._waiting[job] = []
            try:
                settled = await self._commit(job, [finish for finish, _ in batch])
            except BaseException as error:
                self._fail(self._waiting.pop(job) + batch, error)
                raise
            for finish, done in batch:
                done.set_result(finish in settled)
        del self._waiting[job]

    async def _commit(self, job: UUID, batch: Sequence[Finish]) -> list[Finish]:
        try:
            told = await while_away(lambda: _transaction(self._rt, job, batch))
        except Exception as error:  # kept open, the step would be paid for once more
            log.exception("%s: a result cannot be committed", job)
            batch = [_unstorable(finish, error) for finish in batch]
            told = await self._without_results(job, batch)
        await tell.after_commit(self._rt, told)
        return [finish for finish, _ in told.settled] + told.repeated

    async def _without_results(self, job: UUID, batch: Sequence[Finish]) -> Consequence:
        try:
            return await while_away(lambda: _transaction(self._rt, job, batch))
        except Exception:  # not even a fallback helps: the job must end all the same
            log.exception("%s: it fails without asking its chain", job)
            return await while_away(lambda: _last_resort(self._rt, job, batch))

    @staticmethod
    def _fail(
        batch: Sequence[tuple[Finish, asyncio.Future[bool]]], error: BaseException
    ) -> None:
        for _, done in batch:
            if not done.done():
                done.set_exception(error)


async def end_unclaimed(rt: Runtime, finish: Finish, take: Take) -> None:
    """Fail a step behind which no call of this process is (rows 10 and 12)."""

    async def transaction() -> Consequence:
        async with rt.ledger.transaction() as connection:
            job = await jobs.lock(connection, finish.claim.key.job)
            told = Consequence(job)
            if job and await take(connection, state := _state_of(job, finish)):
                told.settled.append((finish, state))
                await _what_is_next(rt, connection, job, told)
            return told

    await tell.after_commit(rt, await while_away(transaction))


async def _transaction(rt: Runtime, job_id: UUID, batch: Sequence[Finish]) -> Consequence:
    async with rt.ledger.transaction() as connection:
        told = await _settled(connection, job_id, batch)
        if told.job and told.settled:
            await _what_is_next(rt, connection, told.job, told)
        return told


async def _last_resort(rt: Runtime, job_id: UUID, batch: Sequence[Finish]) -> Consequence:
    async with rt.ledger.transaction() as connection:
        told = await _settled(connection, job_id, batch)
        if told.job and told.job.ending:
            await _end(connection, told.job, told.job.ending, told)
        elif told.job and told.settled:
            (finish, _), *_ = told.settled
            assert finish.failure is not None  # noqa: S101 - none of them succeeded
            await _decide(connection, told.job, finish.failure, told)
        return told


async def _settled(
    connection: Connection, job_id: UUID, batch: Sequence[Finish]
) -> Consequence:
    """Was one committed before, with the answer lost, then it is ours all the same."""
    job = await jobs.lock(connection, job_id)
    told = Consequence(job)
    for finish in batch:
        if job and await steps.settle(connection, finish, _state_of(job, finish)):
            told.settled.append((finish, _state_of(job, finish)))
        elif await steps.was_settled(connection, finish.claim):
            told.repeated.append(finish)
    return told


def _state_of(job: LockedJob, finish: Finish) -> str:
    """A cancelled job wants no answers; a failing one keeps what was paid for it, and
    every failure, so that a replay repeats no call and the letter names them all."""
    return "cancelled" if job.ending == "cancelled" else finish.state


async def _what_is_next(
    rt: Runtime, connection: Connection, job: LockedJob, told: Consequence
) -> None:
    if job.ending:
        await _end(connection, job, job.ending, told)
        return
    chain = await rt.chains.of(connection, job.chain_version)
    assert chain is not None  # noqa: S101 - a job's version is stored before the job
    await go_on(rt, connection, job, chain, told)


async def go_on(
    rt: Runtime, connection: Connection, job: LockedJob, chain: Chain, told: Consequence
) -> None:
    """Plan and write what the plan says; an error in it fails the job, not the result."""
    past = await next_up.read(connection, job.id, chain)
    try:
        planned = next_up.replayed(job, chain, past)
        fresh = tuple(new_step(s, rt.models, job.max_attempts) for s in planned.ready)
        output = as_json(planned.output) if planned.finished else ""
    except Exception as error:  # a bug of ours must not cost the result either
        await _decide(connection, job, _planning_failure(job, error), told)
        return
    if planned.failed:
        just_now = {finish.claim.key.path for finish, _ in told.settled}
        failure = next_up.failure_of(planned.failed, past, just_now)
        await _decide(connection, job, failure, told)
    elif await jobs.skip_unclaimed(connection, job.id, planned.unwanted):
        await go_on(rt, connection, job, chain, told)
    else:
        await _write(rt, connection, job, planned, fresh, told)
        if planned.finished:
            await jobs.succeed(connection, job, output)
            told.end = "succeeded"


async def _write(
    rt: Runtime,
    connection: Connection,
    job: LockedJob,
    planned: Plan,
    fresh: tuple[NewStep, ...],
    told: Consequence,
) -> None:
    owner = (job.id, job.tenant, job.priority)
    told.queued = fresh
    told.released = rt.pools.release_now(
        job.tenant, ((step.pool, job.priority) for step in fresh)
    )
    await jobs.insert_steps(connection, owner, fresh, told.released)
    await jobs.insert_skipped(connection, owner, planned.skipped)


async def _decide(
    connection: Connection, job: LockedJob, failure: Failure, told: Consequence
) -> None:
    told.failure = failure
    told.letter = await jobs.decide_end(connection, job, "failed", failure)
    told.end = await jobs.ended(connection, job.id)


async def _end(
    connection: Connection, job: LockedJob, end: str, told: Consequence
) -> None:
    told.failure = await jobs.ending_failure(connection, job.id)
    told.letter = await jobs.end_if_settled(connection, job, end, told.failure)
    told.end = await jobs.ended(connection, job.id)


def _planning_failure(job: LockedJob, error: Exception) -> Failure:
    match error:
        case StepFailed():
            return error.failure
        case Refusal():
            return Failure("provider_rejected", str(error))
    log.error("%s: planning failed", job.id, exc_info=error)
    return Failure("template_failed", f"internal error: {type(error).__name__}")


def _unstorable(finish: Finish, error: Exception) -> Finish:
    failure = Failure(
        "too_large",
        f"the result could not be stored ({type(error).__name__})",
        step=finish.claim.key.path,
    )
    billed = Billed(finish.billed.usage, finish.billed.cost, finish.billed.price_version)
    return Finish(finish.claim, "failed", billed, failure=failure)
