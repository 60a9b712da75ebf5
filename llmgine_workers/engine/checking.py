"""A request for a job becomes the job's rows, or a refusal with every finding."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from chains import (
    Cause,
    Chain,
    Finding,
    InvalidChain,
    JobFacts,
    StepFacts,
    fill_inputs,
    load_chain,
    plan,
    single_tool_chain,
    steps_of,
    version_of,
)
from chains.chain import MAX_NESTING
from chains.resolve import references_of, with_chains
from chains.steps import fixed_count
from llmgine_workers.engine.bounds import demand_of
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.planning import new_step, parsed
from llmgine_workers.errors import Refusal, StepFailed
from llmgine_workers.ledger.records import CLASSES, NewJob, NewStep, StepKey

if TYPE_CHECKING:
    from llmgine_workers.engine.submit import JobRequest
    from llmgine_workers.runtime import Runtime


@dataclass(frozen=True)
class Chosen:
    """A chain, its version, and which of its tools and models nobody here has.

    `steps_total` is 0 where it depends on what happens.
    """

    chain: Chain
    version: str
    steps_total: int
    unrunnable: tuple[Finding, ...]
    simulated: bool


class ChosenChains:
    """The chains of one submit: each is looked up, read and stored once."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._named: dict[str, Chosen | None] = {}
        self._written: dict[bytes, Chosen] = {}
        self._fresh: dict[str, Chain] = {}

    async def of(self, request: JobRequest) -> Chosen:
        """The chain that a request names or brings; Refusal if there is none."""
        if request.tool is not None:
            unknown = _unknown_tool(self._rt, request.tool)
            if unknown:
                raise _refusal("unknown_tool", "/tool", unknown)
            chain = single_tool_chain(request.tool, dict(request.arguments))
            return self._made(chain, "/tool")
        if isinstance(request.chain, str):
            return await self._by_name(request.chain)
        return await self._by_definition(request.chain or {})

    async def store(self) -> None:
        """Keep what came with the requests, once all of them are found good."""
        await self._rt.chains.store(self._fresh)

    async def _by_name(self, name: str) -> Chosen:
        if name not in self._named:
            found = await self._rt.chains.named(name)
            self._named[name] = await self._whole(*found) if found else None
        chosen = self._named[name]
        if chosen is None:
            raise _refusal(
                "unknown_chain", "/chain", f"no chain {name!r} in the registry"
            )
        return chosen

    async def _by_definition(self, definition: Mapping[str, Any]) -> Chosen:
        written = orjson.dumps(definition)
        if written not in self._written:
            with _refusing_invalid():
                chain = load_chain(dict(definition))
            self._written[written] = await self._whole(chain, None)
        return self._written[written]

    async def _whole(self, chain: Chain, version: str | None) -> Chosen:
        """With the chains it uses in their places; its own version where it has one."""
        whole = chain
        for _ in range(MAX_NESTING):
            if not (names := references_of(whole)):
                break
            with _refusing_invalid():
                whole = with_chains(whole, await self._inner(names))
        if whole is chain and version:
            return self._chosen(chain, version, "/chain")
        return self._made(whole, "/chain")

    async def _inner(self, names: Iterable[str]) -> dict[str, Chain]:
        found = {name: await self._rt.chains.named(name) for name in names}
        if missing := sorted(name for name, one in found.items() if one is None):
            detail = f"no chain {missing[0]!r} in the registry, which a step uses"
            raise _refusal("unknown_chain", "/chain", detail)
        return {name: one[0] for name, one in found.items() if one}

    def _made(self, chain: Chain, place: str) -> Chosen:
        version = version_of(chain)
        self._fresh[version] = chain
        return self._chosen(chain, version, place)

    def _chosen(self, chain: Chain, version: str, place: str) -> Chosen:
        steps = steps_of(chain)
        unrunnable = tuple(_unrunnable(self._rt, steps, place))
        simulated = not unrunnable and _is_simulated(self._rt, steps)
        return Chosen(chain, version, fixed_count(chain) or 0, unrunnable, simulated)


def check(
    rt: Runtime, tenant: str, request: JobRequest, chosen: Chosen, job: UUID
) -> NewJob:
    """The job as it will be written; Refusal says everything that is wrong with it."""
    chain = chosen.chain
    inputs, unfit = fill_inputs(chain, dict(request.inputs))
    findings = [finding.as_dict() for finding in (*unfit, *chosen.unrunnable)]
    if findings:
        sentences = "; ".join(str(finding["detail"]) for finding in findings)
        raise Refusal(str(findings[0]["code"]), sentences, findings)
    options = request.options
    max_attempts = options.max_attempts or rt.settings.steps.max_attempts
    try:
        facts = JobFacts(str(job), dict(request.metadata))
        first = plan(chain, inputs, {}, facts)
        if first.failed:
            raise _refusal("invalid_input", _what(request), _sentence(first.failed[0]))
        steps = tuple(new_step(step, rt.models, max_attempts) for step in first.ready)
        _check_fits(rt, tenant, steps, job)
        filled = as_json(inputs)
        output = as_json(first.output) if first.finished else None
    except StepFailed as error:
        raise _refusal("invalid_input", _what(request), str(error)) from None
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
    )


def _check_fits(rt: Runtime, tenant: str, steps: Iterable[NewStep], job: UUID) -> None:
    """A call that no limit of its models will ever admit is refused before it waits.

    Only the steps that begin are known by now; later ones fail when they come.
    """
    findings = []
    for step in steps:
        if step.kind != "llm":
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


def _is_simulated(rt: Runtime, steps: Iterable[StepFacts]) -> bool:
    """Whether any model of the chain makes its answers up."""
    return any(
        rt.models.is_simulated(rt.models.candidates(step.models)[0])
        for step in steps
        if step.kind == "llm"
    )


def _unrunnable(rt: Runtime, steps: Iterable[StepFacts], place: str) -> Iterator[Finding]:
    """Tools and models that nobody here has, each once."""
    told = set()
    for step in steps:
        try:
            _check_step(rt, step)
        except Refusal as refusal:
            if str(refusal) not in told:
                told.add(str(refusal))
                yield Finding(place, refusal.code, str(refusal))


def _check_step(rt: Runtime, step: StepFacts) -> None:
    if step.kind == "llm":
        rt.models.candidates(step.models)
    elif step.tool and (unknown := _unknown_tool(rt, step.tool)):
        raise Refusal("unknown_tool", unknown)


def _unknown_tool(rt: Runtime, name: str) -> str | None:
    if name in rt.tools:
        return None
    close = difflib.get_close_matches(name, rt.tools, 1)
    return f"no tool {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


@contextmanager
def _refusing_invalid() -> Iterator[None]:
    try:
        yield
    except InvalidChain as error:
        findings = [_at("/chain", finding) for finding in error.findings]
        raise Refusal("invalid_chain", str(error), findings) from None


def _sentence(cause: Cause) -> str:
    return f"{cause.step}: {cause.message}"


def _what(request: JobRequest) -> str:
    return "/arguments" if request.tool is not None else "/inputs"


def _refusal(code: str, pointer: str, detail: str) -> Refusal:
    return Refusal(code, detail, [Finding(pointer, code, detail).as_dict()])


def _at(place: str, finding: Finding) -> dict[str, object]:
    return {**finding.as_dict(), "pointer": f"{place}{finding.pointer}"}


def _micro(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1_000_000)
