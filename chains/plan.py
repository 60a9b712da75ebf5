"""What is next: one pure function, a replay of a chain over its finished steps.

`plan()` walks the chain from its beginning every time and keeps nothing between two
calls, so it never matters which results came first, how often it is asked, or which
process asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chains import duration
from chains.chain import Chain, Kind, Step
from chains.json_value import Json
from chains.request import Request, options_of, request_of
from chains.scope import Ended, JobFacts, Root, Scope
from chains.template import render


@dataclass(frozen=True, slots=True)
class StepResult:
    """The end of one step. A failed one is given only if it has a fallback, which
    stands for its output, whatever `output` says; a skipped one has null."""

    state: Literal["succeeded", "failed", "skipped"]
    output: Json = None
    text: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What is known of a working step from the chain alone.

    `models` are as written, aliases included; `timeout_s` is of one attempt; what is
    None the settings decide. `fallback` is as written and means something only with
    `has_fallback`.
    """

    path: str
    kind: Literal["llm", "tool"]
    models: tuple[str, ...] = ()
    tool: str | None = None
    timeout_s: float | None = None
    attempts: int | None = None
    schema: Mapping[str, Json] | None = None
    has_fallback: bool = False
    fallback: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyStep(StepFacts):
    """A step to be done now, with everything filled in.

    `request` of an llm step: `messages` and, where set, `system`, `max_tokens`,
    `temperature`, `top_p`, `stop`, `seed`; of a tool step: `tool` and `arguments`.
    """

    request: Request


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `output` is the chain's when `finished`, else null."""

    ready: tuple[ReadyStep, ...] = ()
    skipped: tuple[str, ...] = ()
    finished: bool = False
    output: Json = None


def plan(
    chain: Chain,
    inputs: Mapping[str, Json],
    results: Mapping[str, StepResult],
    job: JobFacts,
    started: Collection[str] = frozenset(),
) -> Plan:
    """The steps that can start, given which ended (`results`) or began (`started`).

    Raises PlanFailed, with code, step and path, if a text cannot be filled in.
    """
    walk = _Walk(chain, results, frozenset(started))
    root = Scope(Root(dict(inputs), job))
    end = walk.steps(chain.steps, "", root)
    if end is None:
        return Plan(tuple(walk.ready))
    output = end.last.output
    if chain.has_output:
        output = render(chain.output, end.scope.lookup, "output")
    return Plan(tuple(walk.ready), finished=True, output=output)


def steps_of(chain: Chain) -> tuple[StepFacts, ...]:
    """Every working step in reading order, for checks before anything runs."""
    facts: list[StepFacts] = []

    def read(steps: Sequence[Step], prefix: str) -> None:
        for step in steps:
            path = prefix + step.name
            if step.parallel is None:
                facts.append(_facts(chain, step, path))
            for branch, inner in (step.parallel or {}).items():
                read(inner, f"{path}.{branch}.")

    read(chain.steps, "")
    return tuple(facts)


@dataclass(frozen=True, slots=True)
class _ListEnd:
    """A list of steps whose every step has ended."""

    scope: Scope
    last: Ended


@dataclass(slots=True)
class _Walk:
    """One replay. A visit answers how a step ended, or None if it has not."""

    chain: Chain
    results: Mapping[str, StepResult]
    started: frozenset[str]
    ready: list[ReadyStep] = field(default_factory=list)

    def steps(self, steps: Sequence[Step], prefix: str, outer: Scope) -> _ListEnd | None:
        """Visit every step of a list whose needs have ended."""
        scope = outer.inside(step.name for step in steps)
        previous: tuple[str, ...] = ()
        for step in steps:
            needs = previous if step.needs is None else step.needs
            if all(name in scope.ended for name in needs):
                ended = _VISITS[step.kind](self, step, prefix + step.name, scope)
                if ended is not None:
                    scope.ended[step.name] = ended
            previous = (step.name,)
        if len(scope.ended) < len(steps):
            return None
        return _ListEnd(scope, scope.ended[steps[-1].name])

    def work(self, step: Step, path: str, scope: Scope) -> Ended | None:
        """An llm or tool step: ended, begun, or ready now."""
        if result := self.results.get(path):
            return _ended(step, result, path, scope)
        if path not in self.started:
            self.ready.append(_ready(self.chain, step, path, scope))
        return None

    def parallel(self, step: Step, path: str, scope: Scope) -> Ended | None:
        """Named lists side by side: an object of their outputs."""
        ends = {
            name: self.steps(steps, f"{path}.{name}.", scope)
            for name, steps in (step.parallel or {}).items()
        }
        outputs = {name: end.last.output for name, end in ends.items() if end}
        return Ended(outputs) if len(outputs) == len(ends) else None


_VISITS: Mapping[Kind, Callable[[_Walk, Step, str, Scope], Ended | None]] = {
    "llm": _Walk.work,
    "tool": _Walk.work,
    "parallel": _Walk.parallel,
}


def _ended(step: Step, result: StepResult, path: str, scope: Scope) -> Ended:
    if result.state != "failed":
        return Ended(result.output, result.text, result.model)
    fallback = render(step.fallback, scope.lookup, path)
    spoken = fallback if step.llm and isinstance(fallback, str) else None
    return Ended(fallback, spoken)


def _ready(chain: Chain, step: Step, path: str, scope: Scope) -> ReadyStep:
    facts = _facts(chain, step, path)
    known = {name: getattr(facts, name) for name in StepFacts.__slots__}
    known["fallback"] = render(step.fallback, scope.lookup, path)
    return ReadyStep(**known, request=request_of(chain, step, path, scope.lookup))


def _facts(chain: Chain, step: Step, path: str) -> StepFacts:
    if step.tool is not None:
        return StepFacts(
            path=path,
            kind="tool",
            tool=step.tool.use,
            timeout_s=_seconds(step.timeout),
            attempts=step.attempts,
            has_fallback=step.has_fallback,
            fallback=step.fallback,
        )
    return StepFacts(
        path=path,
        kind="llm",
        models=options_of(chain, step).get("model", ()),
        timeout_s=_seconds(step.timeout or chain.defaults.timeout),
        attempts=step.attempts or chain.defaults.attempts,
        schema=step.llm.output_schema if step.llm else None,
        has_fallback=step.has_fallback,
        fallback=step.fallback,
    )


def _seconds(written: str | None) -> float | None:
    return None if written is None else duration.seconds(written)
