"""Submit: check everything, write one transaction, tell the broker afterwards."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains import (
    Chain,
    InvalidChain,
    JobFacts,
    PlanFailed,
    fill_inputs,
    load_chain,
    plan,
    single_tool_chain,
    steps_of,
)
from llmgine_workers import clock
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.hints import released_of
from llmgine_workers.engine.planning import new_step
from llmgine_workers.errors import Refusal, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.ledger import jobs
from llmgine_workers.ledger.records import CLASSES, NewJob

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime


@dataclass(frozen=True)
class Options:
    """How a job is to run; None means the installation's default."""

    priority: str = "normal"
    timeout_s: float = 600.0
    max_attempts: int | None = None
    max_cost_usd: float | None = None
    stream: bool = True


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
class Submitted:
    """The job, and whether an earlier request with the same key had made it."""

    job: UUID
    replayed: bool = False


async def submit(
    rt: Runtime,
    tenant: str,
    request: JobRequest,
    idempotency: tuple[str, bytes] | None = None,
) -> Submitted:
    """Row 1. Refusal says everything that is wrong; LedgerDown that nothing was kept."""
    chain, version = await _chain_of(rt, request)
    job = _checked(rt, tenant, request, chain, version)
    if (
        await jobs.queued_of(rt.ledger, tenant)
        >= rt.settings.gateway.max_queued_per_tenant
    ):
        raise Refusal(
            "tenant_queue_full",
            f"{rt.settings.gateway.max_queued_per_tenant} steps of {tenant} are waiting",
        )
    released = rt.pools.release_now(step.pool for step in job.steps)
    try:
        await jobs.insert(rt.ledger, job, released, idempotency)
    except jobs.KeyTaken as taken:
        return _earlier(taken, idempotency)
    await _tell(rt, job, released)
    return Submitted(job.id)


async def _chain_of(rt: Runtime, request: JobRequest) -> tuple[Chain, str]:
    if request.tool is not None:
        chain = single_tool_chain(request.tool, dict(request.arguments))
        return chain, await rt.chains.store(chain)
    if isinstance(request.chain, str):
        found = await rt.chains.named(request.chain)
        if found is None:
            raise Refusal("unknown_chain", f"no chain {request.chain!r} in the registry")
        return found
    try:
        chain = load_chain(dict(request.chain or {}))
    except InvalidChain as error:
        raise Refusal(
            "invalid_chain", str(error), [finding.as_dict() for finding in error.findings]
        ) from None
    return chain, await rt.chains.store(chain)


def _checked(
    rt: Runtime, tenant: str, request: JobRequest, chain: Chain, version: str
) -> NewJob:
    inputs, findings = fill_inputs(chain, dict(request.inputs))
    if findings:
        raise Refusal(
            findings[0].code,
            "; ".join(finding.detail for finding in findings),
            [finding.as_dict() for finding in findings],
        )
    _check_steps(rt, chain)
    job, options = clock.uuid7(), request.options
    max_attempts = options.max_attempts or rt.settings.steps.max_attempts
    try:
        first = plan(
            chain, inputs, {}, JobFacts(str(job), dict(request.metadata)), frozenset()
        )
        steps = tuple(new_step(step, rt.models, max_attempts) for step in first.ready)
    except (PlanFailed, StepFailed) as error:
        raise Refusal("invalid_input", str(error)) from None
    return NewJob(
        id=job,
        tenant=tenant,
        chain_version=version,
        chain_name=chain.name,
        priority=CLASSES.index(options.priority),
        stream=options.stream,
        simulated=any(rt.models.is_simulated(step.model) for step in steps),
        max_attempts=max_attempts,
        timeout_s=options.timeout_s,
        max_cost=_micro(options.max_cost_usd),
        metadata=request.metadata,
        steps_total=len(steps_of(chain)),
        inputs=as_json(inputs),
        steps=steps,
        skipped=first.skipped,
    )


def _check_steps(rt: Runtime, chain: Chain) -> None:
    for step in steps_of(chain):
        if step.kind == "llm":
            rt.models.candidates(step.models)
        elif step.tool not in rt.tools:
            close = difflib.get_close_matches(step.tool or "", rt.tools, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise Refusal("unknown_tool", f"no tool {step.tool!r}{hint}")


def _earlier(taken: jobs.KeyTaken, asked: tuple[str, bytes] | None) -> Submitted:
    if asked and taken.body_hash != asked[1]:
        raise Refusal(
            "idempotency_mismatch", "this Idempotency-Key was used with another body"
        )
    return Submitted(taken.job, replayed=True)


async def _tell(rt: Runtime, job: NewJob, released: list[bool]) -> None:
    await rt.events.emit(
        facts.JobQueued(
            job.id,
            chain={"name": job.chain_name, "version": job.chain_version},
            metadata=dict(job.metadata),
        ),
        *(
            facts.StepQueued(job.id, step.path, step.kind, step.pool)
            for step in job.steps
        ),
    )
    rt.hints.offer(released_of(job.id, job.chain_name, 0, job.steps, released))


def _micro(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1_000_000)
