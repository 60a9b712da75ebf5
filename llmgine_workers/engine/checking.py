"""A request for a job becomes the job's rows, or a refusal with every finding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from chains import Cause, Finding, JobFacts, fill_inputs, plan
from chains.chain import CALLING
from llmgine_workers.engine.bounds import demand_of
from llmgine_workers.engine.chosen import Chosen, refusal
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.planning import new_step, parsed
from llmgine_workers.errors import Refusal, StepFailed
from llmgine_workers.ledger.records import CLASSES, NewJob, NewStep, StepKey
from llmgine_workers.webhooks.address import NotAllowed, check_url

if TYPE_CHECKING:
    from llmgine_workers.engine.submit import JobRequest
    from llmgine_workers.runtime import Runtime


def check(
    rt: Runtime, tenant: str, request: JobRequest, chosen: Chosen, job: UUID
) -> NewJob:
    """The job as it will be written; Refusal says everything that is wrong with it."""
    chain = chosen.chain
    inputs, unfit = fill_inputs(chain, dict(request.inputs))
    findings = [finding.as_dict() for finding in (*unfit, *chosen.unrunnable)]
    findings += _webhook_findings(rt, request.options.webhook)
    if findings:
        sentences = "; ".join(str(finding["detail"]) for finding in findings)
        raise Refusal(str(findings[0]["code"]), sentences, findings)
    options = request.options
    max_attempts = options.max_attempts or rt.settings.steps.max_attempts
    try:
        facts = JobFacts(str(job), dict(request.metadata))
        first = plan(chain, inputs, {}, facts)
        if first.failed:
            raise refusal("invalid_input", _what(request), _sentence(first.failed[0]))
        steps = tuple(new_step(step, rt.models, max_attempts) for step in first.ready)
        _check_fits(rt, tenant, steps, job)
        filled = as_json(inputs)
        output = as_json(first.output) if first.finished else None
    except StepFailed as error:
        raise refusal("invalid_input", _what(request), str(error)) from None
    return NewJob(
        id=job,
        tenant=tenant,
        chain_version=chosen.version,
        chain_name=chain.name,
        priority=CLASSES.index(options.priority),
        stream=options.stream,
        simulated=chosen.simulated,
        max_attempts=max_attempts,
        timeout_s=options.timeout_s,
        max_cost=_micro(options.max_cost_usd),
        metadata=request.metadata,
        steps_total=chosen.steps_total,
        inputs=filled,
        steps=steps,
        skipped=first.skipped,
        output=output,
        webhook=options.webhook,
    )


def _webhook_findings(rt: Runtime, url: str | None) -> list[dict[str, object]]:
    if url is None:
        return []
    settings = rt.settings.webhooks
    try:
        if not settings.secret.get_secret_value():
            raise NotAllowed("cannot be signed: webhooks.secret is not set here")
        check_url(url, settings.networks)
    except NotAllowed as refused:
        no = refusal("webhook_not_allowed", "/options/webhook", str(refused))
        return [dict(finding) for finding in no.findings]
    return []


def _check_fits(rt: Runtime, tenant: str, steps: Iterable[NewStep], job: UUID) -> None:
    """A call that no limit of its models will ever admit is refused before it waits.

    Only the steps that begin are known by now; later ones fail when they come.
    """
    findings = []
    for step in steps:
        if step.kind not in CALLING:
            continue
        key, request = StepKey(job, step.path), parsed(step.request)
        demands = [demand_of(model, tenant, request, key) for model in step.models]
        found = [rt.rules.never_fits(demand) for demand in demands]
        if found and found[0] and all(found):
            said = Finding("/chain", "exceeds_limit", f"{step.path}: {found[0][0]}")
            findings.append({**said.as_dict(), "limit": found[0][1]})
    if findings:
        sentences = "; ".join(str(finding["detail"]) for finding in findings)
        raise Refusal("exceeds_limit", sentences, findings)


def _sentence(cause: Cause) -> str:
    return f"{cause.step}: {cause.message}"


def _what(request: JobRequest) -> str:
    return "/arguments" if request.tool is not None else "/inputs"


def _micro(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1_000_000)
