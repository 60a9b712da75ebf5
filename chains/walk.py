"""One replay of a chain: every list of steps visited from its beginning.

A visit answers how its step ended: `Ended` with an output, `Failed` with the steps to
blame, or None while something in it is still to come. What a kind of step does with
the ends of the steps inside it stands in `chains.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from chains.chain import Block, Kind, Step
from chains.condition import holds
from chains.failures import PlanFailed, TooLarge
from chains.json_value import Json
from chains.scope import Ended, Scope
from chains.steps import ReadyStep
from chains.template import render

MAX_PLANNED = 10_000
"""Steps of one job, whatever its maps and loops come to."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The end of one step. `cost` is what its attempts came to, in micro-dollars;
    `error` of a failed one has `code` and `message`."""

    state: Literal["succeeded", "failed", "skipped"]
    output: Json = None
    text: str | None = None
    model: str | None = None
    error: Mapping[str, Json] | None = None
    cost: int = 0


class Cause(NamedTuple):
    """A step that failed, and why."""

    step: str
    code: str
    message: str


class Failed(NamedTuple):
    """The end of a step that has no output: what in it failed, in reading order."""

    causes: tuple[Cause, ...]


class Skipped(NamedTuple):
    """A step whose condition does not hold."""

    path: str
    kind: Kind


class ListEnd(NamedTuple):
    """A list of steps whose every step has ended."""

    scope: Scope
    last: Ended


class Mark(NamedTuple):
    """How far the replay's lists had grown at some point."""

    ready: int
    skipped: int
    running: int


End: TypeAlias = Ended | Failed | None
Visit: TypeAlias = Callable[["Walk", Step, str, Scope], End]


@dataclass(slots=True)
class Walk:
    """What one replay finds: steps to start, to pass over, and no longer wanted."""

    visits: Mapping[Kind, Visit]
    results: Mapping[str, StepResult]
    started: Set[str]
    ready: list[ReadyStep] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)
    spent: int = 0

    def block(
        self,
        block: Block,
        prefix: str,
        outer: Scope,
        own: Mapping[str, Json] | None = None,
    ) -> End:
        """A list of steps and the output beside it."""
        end = self.steps(block.steps, prefix, outer, own)
        return self.output(block, prefix, end) if isinstance(end, ListEnd) else end

    def output(self, block: Block, prefix: str, end: ListEnd) -> Ended | Failed:
        """What a list that has ended gives: the output written beside it, or the last
        step's."""
        if not block.has_output:
            return Ended(end.last.output)
        return filled(block.output, end.scope, f"{prefix}output")

    def steps(
        self,
        steps: Sequence[Step],
        prefix: str,
        outer: Scope,
        own: Mapping[str, Json] | None = None,
    ) -> ListEnd | Failed | None:
        """Visit every step of a list whose needs have ended."""
        scope = outer.inside((step.name for step in steps), own)
        since, failures = self.mark(), []
        previous: tuple[str, ...] = ()
        for step in steps:
            needs = previous if step.needs is None else step.needs
            if all(name in scope.ended for name in needs):
                end = self.step(step, prefix + step.name, scope)
                if isinstance(end, Failed):
                    failures.append(end)
                elif end is not None:
                    scope.ended[step.name] = end
            previous = (step.name,)
        if failures:
            return self.give_up(since, failures)
        if len(scope.ended) < len(steps):
            return None
        return ListEnd(scope, scope.ended[steps[-1].name] if steps else Ended(None))

    def step(self, step: Step, path: str, scope: Scope) -> End:
        """One step: skipped, visited, and stood in for if it failed."""
        since = self.mark()
        end = self._visited(step, path, scope)
        if not (isinstance(end, Failed) and step.has_fallback):
            return end
        return None if self.runs_on(since) else _fallback(step, path, scope)

    def _visited(self, step: Step, path: str, scope: Scope) -> End:
        result = self.results.get(path)
        if result and result.state == "skipped":
            return Ended(None)
        try:
            if step.when is None or holds(step.when, scope.lookup, path):
                return self.visits[step.kind](self, step, path, scope)
        except PlanFailed as failure:
            return failed_by(failure)
        self.skipped.append(Skipped(path, step.kind))
        return Ended(None)

    def start(self, step: ReadyStep) -> None:
        """Have a step done."""
        if len(self.started) + len(self.ready) >= MAX_PLANNED:
            raise TooLarge(step.path, f"a job has at most {MAX_PLANNED} steps")
        self.ready.append(step)

    def mark(self) -> Mark:
        """Where the replay stands, to come back to."""
        return Mark(len(self.ready), len(self.skipped), len(self.running))

    def give_up(self, since: Mark, failures: Sequence[Failed]) -> Failed:
        """Nothing is started beside what has failed."""
        del self.ready[since.ready :], self.skipped[since.skipped :]
        return Failed(tuple(cause for failed in failures for cause in failed.causes))

    def runs_on(self, since: Mark) -> bool:
        """Whether steps beside a failure still run that nobody wants any more.

        What stands in for a failure waits for them: no call is left behind.
        """
        running = self.running[since.running :]
        self.unwanted += running
        return bool(running)


def filled(value: Json, scope: Scope, path: str) -> Ended | Failed:
    """An output that is written: its texts filled in, or why they cannot be."""
    try:
        return Ended(render(value, scope.lookup, path))
    except PlanFailed as failure:
        return failed_by(failure)


def failed_by(failure: PlanFailed) -> Failed:
    """The end of a step that could not be planned."""
    return Failed((Cause(failure.step, failure.code, failure.message),))


def _fallback(step: Step, path: str, scope: Scope) -> Ended | Failed:
    end = filled(step.fallback, scope, path)
    if step.llm and isinstance(end, Ended) and isinstance(end.output, str):
        return Ended(end.output, end.output)
    return end
