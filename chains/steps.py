"""What is known of a working step: from the chain alone, and once it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from chains import duration
from chains.chain import WORKING, Chain, Defaults, Step
from chains.json_value import Json
from chains.request import Request, options_of, request_of
from chains.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """A working step as it is written, or one of the steps it becomes.

    `models` are as written, aliases included; `timeout_s` is of one attempt, or of a
    wait; what is None the settings decide.
    """

    path: str
    kind: Literal["llm", "embed", "tool", "wait"]
    models: tuple[str, ...] = ()
    tool: str | None = None
    timeout_s: float | None = None
    attempts: int | None = None
    schema: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyStep(StepFacts):
    """A step to be done now, with everything filled in.

    `request` of an llm step: `messages` and, where set, `system`, `max_tokens`,
    `temperature`, `top_p`, `stop`, `seed`, `frequency_penalty`, `presence_penalty`,
    `reasoning_effort`; of an embed step: `input` (a list of texts), `encoding` and,
    where set, `dimensions`; of a tool step: `tool` and `arguments`; of a wait: what is
    waited for.
    """

    request: Request


def steps_of(chain: Chain) -> tuple[StepFacts, ...]:
    """Every working step in reading order, for checks before anything runs.

    Items and turns are not known yet: their place in a path is a `*`.
    """
    return tuple(_working(chain.steps, "", chain.defaults))


def counts_money(chain: Chain) -> bool:
    """Whether a loop of the chain stops by what it has cost."""
    return any(
        step.loop and step.loop.max_cost_usd is not None for step in _every(chain.steps)
    )


def fixed_count(chain: Chain) -> int | None:
    """How many working steps every job of the chain has; None if that depends."""
    for step in _every(chain.steps):
        decides = step.map or step.branch or step.loop
        if decides or (step.when and step.kind not in (*WORKING, "wait")):
            return None
    return len(steps_of(chain))


def ready(step: Step, path: str, scope: Scope) -> ReadyStep:
    """A working step that can start; PlanFailed if a text cannot be filled in."""
    defaults = scope.root.defaults
    facts = facts_of(step, path, defaults)
    known = {name: getattr(facts, name) for name in StepFacts.__slots__}
    return ReadyStep(**known, request=request_of(defaults, step, path, scope.lookup))


def facts_of(step: Step, path: str, defaults: Defaults) -> StepFacts:
    """What the chain says of a working step."""
    if step.llm is None:
        return StepFacts(
            path=path,
            kind="embed" if step.embed else "tool" if step.tool else "wait",
            models=step.embed.model if step.embed else (),
            tool=step.tool.use if step.tool else None,
            timeout_s=_seconds(step.timeout),
            attempts=step.attempts,
        )
    return StepFacts(
        path=path,
        kind="llm",
        models=options_of(defaults, step.llm).get("model", ()),
        timeout_s=_seconds(step.timeout or defaults.timeout),
        attempts=step.attempts or defaults.attempts,
        schema=step.llm.output_schema,
    )


def _working(
    steps: Sequence[Step], prefix: str, defaults: Defaults
) -> Iterator[StepFacts]:
    for step in steps:
        path = prefix + step.name
        if step.llm or step.embed or step.tool or step.wait:
            yield facts_of(step, path, defaults)
        for word, inner, theirs in _lists_of(step, defaults):
            yield from _working(inner, f"{path}.{word}", theirs)


def _every(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        for _, inner, _ in _lists_of(step, Defaults()):
            yield from _every(inner)


def _lists_of(
    step: Step, defaults: Defaults
) -> Iterator[tuple[str, Sequence[Step], Defaults]]:
    for branch, steps in (step.parallel or {}).items():
        yield f"{branch}.", steps, defaults
    for number, case in enumerate(step.branch or ()):
        yield f"{number}.", case.steps, defaults
    for repeated in (step.map, step.loop):
        if repeated:
            yield "*.", repeated.steps, defaults
    if step.chain and isinstance(step.chain.use, Chain):
        yield "", step.chain.use.steps, step.chain.use.defaults


def _seconds(written: str | None) -> float | None:
    return None if written is None else duration.seconds(written)
