"""Jobs, workers and claims for tests, and the ledger's rows as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.ledger import (
    attempts,
    jobs,
    letters,
    release,
    steps,
    submits,
    sweep,
    workers,
)
from llmgine_workers.ledger.attempts import Opening
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.records import (
    Billed,
    Claim,
    Finish,
    Hinted,
    LockedJob,
    NewJob,
    NewStep,
    Released,
    StepKey,
)
from llmgine_workers.llm import Usage

VERSION = "sha256:5d2b0c"
OVERLOADED = Failure("provider_overloaded", "try again", status=529)
REJECTED = Failure("provider_rejected", "no such model", status=400)
PAID = Billed(Usage(calls=1, input_tokens=40, output_tokens=8), cost=120, status=200)


@dataclass
class Place:
    """A ledger, and a pool that nobody else's steps are in."""

    ledger: Ledger
    pool: str = field(default_factory=lambda: f"p{uuid4().hex[:10]}")

    def step(self, path: str = "draft", **more: Any) -> NewStep:
        """A step of this pool."""
        columns: dict[str, Any] = {
            "path": path, "kind": "llm", "pool": self.pool, "request": '{"messages": []}',
            "timeout_s": 60.0, "max_attempts": 5, "model": "openai/gpt-5-mini", **more,
        }  # fmt: skip
        return NewStep(**columns)

    def job(self, *new: NewStep, **more: Any) -> NewJob:
        """A job of these steps, or of one."""
        columns: dict[str, Any] = {
            "id": clock.uuid7(), "tenant": f"t{uuid4().hex[:10]}",
            "chain_version": VERSION, "chain_name": "summarize", "priority": 1,
            "stream": False, "simulated": False, "max_attempts": 5, "timeout_s": 600.0,
            "max_cost": None, "metadata": {}, "steps_total": 1, "inputs": "{}",
            "steps": new or (self.step(),), **more,
        }  # fmt: skip
        return NewJob(**columns)

    async def submit(
        self, *new: NewStep, released: bool = True, **more: Any
    ) -> list[StepKey]:
        """Submit a job; answers the keys of its steps."""
        job = self.job(*new, **more)
        await submits.insert(
            self.ledger, submits.Submit(job, [released] * len(job.steps))
        )
        return [StepKey(job.id, step.path) for step in job.steps]

    async def worker(self, slots: int = 10) -> UUID:
        """A live worker of this pool."""
        worker = clock.uuid7()
        await workers.register(self.ledger, worker, self.pool, slots, "host:1")
        return worker

    async def claim(
        self,
        key: StepKey,
        worker: UUID,
        claim_id: UUID | None = None,
        *,
        reserved: int | None = 500,
    ) -> Claim | None:
        """Read and claim a step as a worker does; None if it is not to be had."""
        hinted = await self.hinted(key)
        assert hinted is not None
        claim_id = claim_id or attempts.new_claim_id()
        wanted = Opening(hinted, worker, claim_id, simulated=False, reserved=reserved)
        if hinted.has_budget:
            return await attempts.claim_within_budget(self.ledger, wanted)
        (claim,) = await attempts.claim(self.ledger, [wanted])
        return claim

    async def hinted(self, key: StepKey) -> Hinted | None:
        """What a hint to a step finds."""
        (found,) = await steps.read(self.ledger, [key])
        return found

    async def claimed(self, key: StepKey, worker: UUID | None = None) -> Claim:
        """A claim that must succeed."""
        claim = await self.claim(key, worker or await self.worker())
        assert claim is not None
        return claim

    async def settle(self, claim: Claim, state: str = "succeeded", **more: Any) -> bool:
        """Settle a step under its job's lock, without planning what is next."""
        finish = Finish(claim, state, more.pop("billed", PAID), **more)
        async with self.ledger.transaction() as connection:
            assert await jobs.lock(connection, claim.key.job)
            (settled,) = await steps.settle(connection, [(finish, state)])
            return settled

    async def end(self, job: UUID, end: str, failure: Failure | None) -> sweep.Taken:
        """Row 15, which must take."""
        taken = await sweep.end_job(self.ledger, job, end, failure)
        assert taken is not None
        return taken

    async def lock_and_end(self, job: UUID, failure: Failure) -> UUID | None:
        """The failure of a job in the transaction of a finish; answers its letter."""
        async with self.ledger.transaction() as connection:
            locked = await jobs.lock(connection, job)
            assert locked is not None
            return await jobs.decide_end(connection, locked, "failed", failure)

    async def locked(self, job: UUID) -> LockedJob:
        """The job as a transaction that locks it sees it."""
        async with self.ledger.transaction() as connection:
            found = await jobs.lock(connection, job)
        assert found is not None
        return found

    async def release(self, *, window: int = 2000, admitted: int = 2000) -> list[StepKey]:
        """One tick of this pool: what it released, in its order."""
        released = await release.tick(self.ledger, self.pool, window, admitted)
        assert released is not None
        return [one.key for one in released]

    async def take_back(self, worker: UUID) -> list[sweep.Taken]:
        """Row 12 for one worker's steps."""
        taken = [
            await sweep.take_back(self.ledger, one) for one in await self.lost(worker)
        ]
        return [one for one in taken if one]

    async def lost(self, worker: UUID) -> list[sweep.Lost]:
        """What the sweep finds of one worker."""
        return [o for o in await sweep.lost_steps(self.ledger) if o.worker == worker]

    async def die(self, worker: UUID) -> None:
        """Row 19, decided."""
        async with self.ledger.connection() as connection:
            beat_no = await connection.fetchval(
                "select beat_no from workers where id = $1", worker
            )
        assert await workers.declare_dead(self.ledger, worker, beat_no)

    async def step_row(self, key: StepKey) -> dict[str, Any]:
        """A step's row."""
        found = await self.rows(
            "select * from steps where job_id = $1 and path = $2", key.job, key.path
        )
        assert len(found) == 1
        return found[0]

    async def state(self, key: StepKey) -> str:
        """A step's state."""
        return str((await self.step_row(key))["state"])

    async def job_row(self, job: UUID) -> dict[str, Any]:
        """A job's row."""
        (found,) = await self.rows("select * from jobs where id = $1", job)
        return found

    async def attempts(self, key: StepKey) -> list[dict[str, Any]]:
        """A step's attempts in their order."""
        return await self.rows(
            "select * from attempts where job_id = $1 and path = $2 order by n",
            key.job, key.path,
        )  # fmt: skip

    async def letters(self, job: UUID) -> list[dict[str, Any]]:
        """A job's letters, the oldest first."""
        return await self.rows("select * from letters where job_id = $1 order by id", job)

    async def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """What a query finds."""
        async with self.ledger.connection() as connection:
            return [dict(row) for row in await connection.fetch(sql, *values)]

    async def age(self, seconds: float, *job_ids: UUID) -> None:
        """Let that much time have passed for these jobs, without waiting for it."""
        await pass_time(self.ledger, seconds, job_ids)


async def pass_time(ledger: Ledger, seconds: float, job_ids: Iterable[UUID]) -> None:
    """Move every moment the ledger remembers of these jobs into the past.

    The same as `now()` being later, for it only ever compares the two.
    """
    listed = list(job_ids)
    async with ledger.transaction() as connection:
        await connection.execute(
            "update steps set released_at = released_at - $1 * interval '1 second', "
            "wake_at = wake_at - $1 * interval '1 second', "
            "started_at = started_at - $1 * interval '1 second', "
            "call_deadline = call_deadline - $1 * interval '1 second' "
            "where job_id = any($2) and state in ('queued', 'running', 'waiting')",
            seconds, listed,
        )  # fmt: skip
        await connection.execute(
            "update jobs set expires_at = expires_at - $1 * interval '1 second' "
            "where id = any($2) and state = 'active'",
            seconds, listed,
        )  # fmt: skip


__all__ = [
    "OVERLOADED",
    "PAID",
    "REJECTED",
    "Place",
    "Released",
    "letters",
    "pass_time",
]
