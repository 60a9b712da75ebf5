"""Finish: commit answers, decide once what is next, and only then tell anybody.

At most one such transaction runs per job in a process; it takes every finish of the job
that has arrived meanwhile, so a wide job does not queue behind its own row lock. And it
takes those of other jobs that wait, so that a busy process commits for many at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from llmgine_workers.engine import consequence, tell
from llmgine_workers.engine.consequence import Consequence
from llmgine_workers.errors import Failure
from llmgine_workers.ledger import jobs, steps
from llmgine_workers.ledger.connection import Connection, while_away
from llmgine_workers.ledger.gather import Gatherer
from llmgine_workers.ledger.records import Billed, Claim, Finish, LockedJob

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

log = logging.getLogger(__name__)

UNCOMMITTED_AT_MOST = 64
"""Answers waiting for their commit beyond which nothing more is claimed: a process that
dies leaves them ambiguous, to be paid for again. A healthy ledger takes as many in
10 ms."""

TOGETHER_AT_MOST = 100
"""Finishes of one transaction; each 16 KiB of output counts as one more."""

OUTPUT_SHARE = 16 * 1024

WIDE = 100
"""Open steps from which a job is wide: its plan takes milliseconds ..."""
PLAN_WIDE_EVERY_S = 0.05
"""... so what ends meanwhile is gathered for so long."""

Take = Callable[[Connection, str], Awaitable[bool]]
"""Writes a step's end (its state is given) if it is still there to be ended."""


@dataclass(frozen=True)
class _Batch:
    """Finishes of one job that go together."""

    job: UUID
    finishes: Sequence[Finish]


@dataclass
class _Settled:
    """What became of a batch. `ours`: claims whose end is as we wrote it, now or, with
    an answer that was lost, before. `told` is None if the job is gone."""

    told: Consequence | None
    ours: set[Claim]


class Finisher:
    """The finishes of one process, gathered by job and then over jobs."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._waiting: dict[UUID, list[tuple[Finish, asyncio.Future[bool]]]] = {}
        self._together = Gatherer(self._commit, at_most=TOGETHER_AT_MOST, weigh=_weight)
        self._uncommitted = 0
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Wait until few enough answers wait for their commit to ask for more."""
        await self._room.wait()

    async def finish(self, finish: Finish) -> bool:
        """Commit it; False if the fence was stale: the step is somebody else's now."""
        job = finish.claim.key.job
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._count(1)
        done.add_done_callback(lambda _: self._count(-1))
        if job in self._waiting:
            self._waiting[job].append((finish, done))
        else:
            self._waiting[job] = [(finish, done)]
            self._rt.spawn(self._work_through(job))
        return await asyncio.shield(done)

    def _count(self, more: int) -> None:
        self._uncommitted += more
        if self._uncommitted >= UNCOMMITTED_AT_MOST:
            self._room.clear()
        else:
            self._room.set()

    async def _work_through(self, job: UUID) -> None:
        while waiting := self._waiting[job][:TOGETHER_AT_MOST]:
            del self._waiting[job][:TOGETHER_AT_MOST]
            try:
                settled = await self._settle(_Batch(job, [one for one, _ in waiting]))
            except BaseException as error:
                self._fail(self._waiting.pop(job) + waiting, error)
                raise
            for finish, done in waiting:
                done.set_result(finish.claim in settled.ours)
            if settled.told and settled.told.open_steps > WIDE:
                await asyncio.sleep(PLAN_WIDE_EVERY_S)
        del self._waiting[job]

    async def _settle(self, batch: _Batch) -> _Settled:
        try:
            return await while_away(lambda: self._together(batch))
        except Exception as error:
            if len(batch.finishes) > 1:
                return await self._settle_each(batch)
            # Kept open, the step would be paid for once more.
            log.exception("%s: a result cannot be committed", batch.job)
            return await self._without_result(batch, error)

    async def _settle_each(self, batch: _Batch) -> _Settled:
        """One of them spoils the transaction; the others have done nothing wrong."""
        each = [await self._settle(_Batch(batch.job, [one])) for one in batch.finishes]
        return _Settled(each[-1].told, set().union(*(one.ours for one in each)))

    async def _without_result(self, batch: _Batch, error: Exception) -> _Settled:
        failed = _Batch(batch.job, [_unstorable(one, error) for one in batch.finishes])
        try:
            return await while_away(lambda: self._together(failed))
        except Exception:  # not even a fallback helps: the job must end all the same
            log.exception("%s: it fails without asking its chain", batch.job)
        settled = await while_away(lambda: _last_resort(self._rt, failed))
        await self._tell([settled])
        return settled

    async def _commit(self, batches: Sequence[_Batch]) -> list[_Settled]:
        found = await _transaction(self._rt, batches)
        await self._tell(found)
        return found

    async def _tell(self, found: Sequence[_Settled]) -> None:
        await tell.after_commit(self._rt, [one.told for one in found if one.told])

    @staticmethod
    def _fail(
        waiting: Sequence[tuple[Finish, asyncio.Future[bool]]], error: BaseException
    ) -> None:
        for _, done in waiting:
            if not done.done():
                done.set_exception(error)


async def end_unclaimed(rt: Runtime, finish: Finish, take: Take) -> None:
    """Fail a step behind which no call of this process is (rows 10 and 12)."""

    async def transaction() -> list[Consequence]:
        async with rt.ledger.transaction() as connection:
            job = await jobs.lock(connection, finish.claim.key.job)
            if not (job and await take(connection, state := _state_of(job, finish))):
                return []
            told = Consequence(job, [(finish, state)])
            await consequence.follow(rt, connection, [told])
            return [told]

    await tell.after_commit(rt, await while_away(transaction))


async def _transaction(rt: Runtime, batches: Sequence[_Batch]) -> list[_Settled]:
    async with rt.ledger.transaction() as connection:
        found = await _settled(connection, batches)
        followed = [one.told for one in found if one.told and one.told.settled]
        await consequence.follow(rt, connection, followed)
        return found


async def _last_resort(rt: Runtime, batch: _Batch) -> _Settled:
    async with rt.ledger.transaction() as connection:
        (found,) = await _settled(connection, [batch])
        told = found.told
        if told and told.job.ending:
            await consequence.end(connection, told)
        elif told and told.settled:
            (finish, _), *_ = told.settled
            assert finish.failure is not None  # noqa: S101 - none of them succeeded
            await consequence.decide(connection, told, finish.failure)
        return found


async def _settled(connection: Connection, batches: Sequence[_Batch]) -> list[_Settled]:
    """Was one committed before, with the answer lost, then it is ours all the same."""
    locked = await jobs.lock_all(connection, [batch.job for batch in batches])
    told = {job.id: Consequence(job) for job in locked.values()}
    ends = [
        (finish, _state_of(locked[batch.job], finish))
        for batch in batches if batch.job in locked
        for finish in batch.finishes
    ]  # fmt: skip
    stale = []
    for (finish, state), is_ours in zip(
        ends, await steps.settle(connection, ends), strict=True
    ):
        if is_ours:
            told[finish.claim.key.job].settled.append((finish, state))
        else:
            stale.append(finish.claim)
    repeated = await steps.were_settled(connection, stale)
    return [_outcome(batch, told.get(batch.job), repeated) for batch in batches]


def _outcome(batch: _Batch, told: Consequence | None, repeated: set[Claim]) -> _Settled:
    settled = {finish.claim for finish, _ in told.settled} if told else set()
    before = {one.claim for one in batch.finishes if one.claim in repeated}
    return _Settled(told, settled | before)


def _state_of(job: LockedJob, finish: Finish) -> str:
    """A cancelled job wants no answers; a failing one keeps what was paid for it, and
    every failure, so that a replay repeats no call and the letter names them all."""
    return "cancelled" if job.ending == "cancelled" else finish.state


def _weight(batch: _Batch) -> int:
    sizes = (len(finish.output or "") for finish in batch.finishes)
    return sum(1 + size // OUTPUT_SHARE for size in sizes)


def _unstorable(finish: Finish, error: Exception) -> Finish:
    failure = Failure(
        "too_large",
        f"the result could not be stored ({type(error).__name__})",
        step=finish.claim.key.path,
    )
    billed = Billed(finish.billed.usage, finish.billed.cost, finish.billed.price_version)
    return Finish(finish.claim, "failed", billed, failure=failure)
