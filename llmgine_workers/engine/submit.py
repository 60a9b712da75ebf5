"""Submit: check everything, write one transaction, tell the broker afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains.findings import MAX_FINDINGS
from llmgine_workers import clock
from llmgine_workers.engine import tell
from llmgine_workers.engine.checking import check
from llmgine_workers.engine.chosen import ChosenChains
from llmgine_workers.engine.hints import released_of
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import budgets, idempotency, submits
from llmgine_workers.ledger.idempotency import KeyTaken
from llmgine_workers.ledger.records import NewJob
from llmgine_workers.ledger.submits import Batch, Submit

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

MAX_BATCH = 1000
"""Jobs in one batch (interface section 2)."""

MAX_BATCH_BYTES = 64 * 1024**2
"""Inputs and rendered first requests of a batch: templates can make much of little."""

_AT_ONCE = 50
"""Jobs of a batch that are looked at, or told of, before others get their turn."""

Key = tuple[str, bytes]
"""An idempotency key, and the hash of the body it came with."""


@dataclass(frozen=True)
class Options:
    """How a job is to run; None means the installation's default."""

    priority: str = "normal"
    timeout_s: float = 600.0
    max_attempts: int | None = None
    max_cost_usd: float | None = None
    stream: bool = True
    webhook: str | None = None


@dataclass(frozen=True)
class JobRequest:
    """What a client asks for: a chain (name, `name@version`, object) or a tool."""

    chain: str | Mapping[str, Any] | None = None
    tool: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Options = Options()


@dataclass(frozen=True)
class Made:
    """What a submit has written just now, and when."""

    jobs: Sequence[NewJob]
    at: datetime


@dataclass(frozen=True)
class Submitted:
    """The job. `made` is None if an earlier request with the same key had made it."""

    job: UUID
    made: Made | None = None

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier request."""
        return self.made is None


@dataclass(frozen=True)
class SubmittedBatch:
    """The batch. `made` is None if an earlier request with the same key had made it."""

    batch: UUID
    made: Made | None = None

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier request."""
        return self.made is None


async def submit(
    rt: Runtime, tenant: str, request: JobRequest, key: Key | None = None
) -> Submitted:
    """Row 1. Refusal says everything that is wrong; LedgerDown that nothing was kept."""
    try:
        chosen = ChosenChains(rt)
        job = check(rt, tenant, request, await chosen.of(request), clock.uuid7())
        await _check_budgets(rt, tenant, [job])
        await rt.intake.take_room(tenant, len(job.steps))
        await chosen.store()
        released = _released(rt, tenant, [job])
        at = await rt.intake.insert(Submit(job, released, key))
    except (Refusal, KeyTaken) as error:
        return Submitted(await _earlier(rt, tenant, key, error))
    await _tell(rt, [job], released)
    return Submitted(job.id, Made([job], at))


async def submit_batch(
    rt: Runtime, tenant: str, requests: Sequence[JobRequest], key: Key | None = None
) -> SubmittedBatch:
    """Row 1 for up to `MAX_BATCH` jobs: all in one transaction, or none.

    Their ids ascend in the order of the requests. Pointers of a Refusal's findings
    begin with `/jobs/N`.
    """
    batch = clock.uuid7()
    try:
        chosen = ChosenChains(rt)
        made = await _checked(rt, tenant, requests, chosen)
        made = [replace(job, batch=batch) for job in made]
        await rt.intake.take_room(tenant, sum(len(job.steps) for job in made))
        await _check_budgets(rt, tenant, made)
        await chosen.store()
        released = _released(rt, tenant, made)
        whole = Batch(batch, tenant, made, released)
        at = await submits.insert_batch(rt.ledger, whole, key)
    except (Refusal, KeyTaken) as error:
        return SubmittedBatch(await _earlier(rt, tenant, key, error))
    await _tell(rt, made, released)
    return SubmittedBatch(batch, Made(made, at))


async def _checked(
    rt: Runtime, tenant: str, requests: Sequence[JobRequest], chosen: ChosenChains
) -> list[NewJob]:
    ids = sorted(clock.uuid7() for _ in requests)
    made, findings, size = [], [], 0
    for n, (job, request) in enumerate(zip(ids, requests, strict=True)):
        try:
            made.append(check(rt, tenant, request, await chosen.of(request), job))
            size += _size(made[-1])
        except Refusal as refusal:
            findings += [_of_job(n, finding) for finding in refusal.findings]
        if size > MAX_BATCH_BYTES:
            raise Refusal(
                "batch_too_large", f"its requests have more than {MAX_BATCH_BYTES} bytes"
            )
        if len(findings) > MAX_FINDINGS:
            break
        if n % _AT_ONCE == 0:
            await asyncio.sleep(0)
    if findings:
        raise _refusal_of_all(findings)
    return made


def _size(job: NewJob) -> int:
    return len(job.inputs) + sum(len(step.request) for step in job.steps)


def _of_job(n: int, finding: Mapping[str, Any]) -> dict[str, Any]:
    return {**finding, "pointer": f"/jobs/{n}{finding['pointer']}"}


def _refusal_of_all(findings: Sequence[Mapping[str, Any]]) -> Refusal:
    first = findings[0]
    where = first["pointer"].strip("/").replace("/", ".")
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return Refusal(first["code"], f"{where}: {first['detail']}{more}", findings)


async def _check_budgets(rt: Runtime, tenant: str, new: Sequence[NewJob]) -> None:
    """Only for budgets that refuse (`on_exhausted`): the others let a job wait."""
    models = {step.model for job in new for step in job.steps if step.model}
    for model in sorted(models):
        of_model = budgets.budgets_of(rt.settings.limits, tenant, model)
        used_up = await budgets.refusing(rt.ledger, of_model)
        if used_up:
            raise Refusal("budget_exhausted", f"the budget {used_up} is used up")


def _released(rt: Runtime, tenant: str, new: Sequence[NewJob]) -> list[bool]:
    return rt.pools.release_now(
        tenant, ((step.pool, job.priority) for job in new for step in job.steps)
    )


async def _earlier(
    rt: Runtime, tenant: str, key: Key | None, error: Refusal | KeyTaken
) -> UUID:
    """What an earlier request made with the key, also if it would be refused by now."""
    taken = error if isinstance(error, KeyTaken) else None
    if taken is None and key is not None:
        taken = await idempotency.found(rt.ledger, tenant, key[0])
    if taken is None or key is None:
        raise error
    if taken.body_hash != key[1]:
        raise Refusal(
            "idempotency_mismatch", "this Idempotency-Key was used with another body"
        )
    return taken.made


async def _tell(rt: Runtime, new: Sequence[NewJob], released: Sequence[bool]) -> None:
    """Facts before hints, so that nobody hears of a start before its job."""
    answers = iter(released)
    for begin in range(0, len(new), _AT_ONCE):
        some = new[begin : begin + _AT_ONCE]
        await rt.events.emit(*(fact for job in some for fact in _facts(job)))
        for job in some:
            if job.output is not None:  # nothing to do: it ended as it began
                await tell.job_ended(rt, job.id, None)
        for job in some:
            now = list(islice(answers, len(job.steps)))
            rt.hints.offer(released_of(job.id, job.chain_name, 0, job.steps, now))


def _facts(job: NewJob) -> list[facts.JobFact]:
    chain = {"name": job.chain_name, "version": job.chain_version}
    return [
        facts.JobQueued(job.id, chain=chain, metadata=dict(job.metadata)),
        *(tell.begun(job.id, step) for step in job.steps),
    ]
