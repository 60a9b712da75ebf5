"""Which names a text may use at its place in a chain.

A step sees the inputs, the job, and the steps that are certain to have ended before
it: those it needs, what they need, and the same of the lists around it. The innermost
list that has a name owns it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from chains.chain import KINDS, MAX_STEPS
from chains.condition import ROOTS
from chains.findings import Finding, did_you_mean
from chains.json_value import Json
from chains.template import Path

Problem: TypeAlias = tuple[str, str]
"""Code and sentence of a finding whose place the caller knows."""

_PARTS = ("output", "text", "model")


class StepList:
    """A written list of steps: its names, and what has ended before each step."""

    def __init__(self, steps: Sequence[Json]) -> None:
        self._steps = steps[:MAX_STEPS]  # more are refused; nobody reads on
        self._names = [_name(step) for step in self._steps]
        self.kinds = {
            name: _kind(step)
            for name, step in zip(self._names, self._steps, strict=True)
            if name is not None
        }
        self.ended_before = self._closures()

    def _closures(self) -> list[frozenset[str]]:
        closures: dict[str, frozenset[str]] = {}
        before: list[frozenset[str]] = []
        previous: tuple[str | None, ...] = ()
        for name, step in zip(self._names, self._steps, strict=True):
            needs = _needs(step)
            needed = [n for n in (previous if needs is None else needs) if n in closures]
            ended = frozenset().union(*({n} | closures[n] for n in needed))
            before.append(ended)
            if name is not None:
                closures[name] = ended
            previous = (name,)
        return before

    def part_problem(self, name: str, part: str, has_default: bool) -> Problem | None:
        """Why `steps.NAME` has no such part."""
        if part not in _PARTS:
            suggestion = did_you_mean(part, _PARTS)
            detail = f"a step has output, text and model, not {part}{suggestion}"
            return "unknown_name", detail
        kind = self.kinds[name]
        has_part = kind in ("llm", "") or (part, kind) == ("model", "embed")
        if part != "output" and not has_part and not has_default:
            return "unknown_name", f"{name} is a {kind} step, it has no {part}"
        return None

    def order_findings(self, index: int, at: str) -> Iterator[Finding]:
        """Whether a step's name is its own and its `needs` stand above it."""
        above = self._names[:index]
        name = self._names[index]
        if name is not None and name in above:
            detail = f"two steps of one list are named {name}"
            yield Finding(f"{at}/name", "duplicate_name", detail)
        for number, needed in enumerate(_needs(self._steps[index]) or ()):
            if needed in above:
                continue
            where = f"{at}/needs/{number}"
            if needed in self.kinds:
                detail = f"{needed} does not stand above this step"
                yield Finding(where, "step_not_before", detail)
            else:
                known = [name for name in above if name]
                detail = f"no step is named {needed}{did_you_mean(needed, known)}"
                yield Finding(where, "unknown_step", detail)


_NO_STEPS = StepList(())


@dataclass(frozen=True)
class Names:
    """What is visible at one place. `ended` names steps of the own list; `own` is what
    else only that list has: `item` and `index` of a map, `index` and `last` of a loop."""

    inputs: Mapping[str, Json]
    outer: Names | None = None
    steps: StepList = _NO_STEPS
    ended: frozenset[str] = frozenset()
    own: tuple[str, ...] = ()

    def inside(self, steps: StepList, own: tuple[str, ...] = ()) -> Names:
        """Within a list of steps that stands at this place."""
        return Names(self.inputs, self, steps, own=own)

    def before(self, index: int) -> Names:
        """At the step with that index: what it needs has ended."""
        return replace(self, ended=self.steps.ended_before[index])

    def at_the_end(self) -> Names:
        """Where every step of the list has ended."""
        return replace(self, ended=frozenset(self.steps.kinds))

    def problem(self, path: Path, *, has_default: bool) -> Problem | None:
        """Why a path cannot have a value here, or None."""
        root, *rest = path
        if root == "inputs":
            return self._input_problem(rest)
        if root == "steps":
            return self._step_problem(rest, has_default)
        if root == "job":
            return _job_problem(path)
        if root == "last":
            return self._last_problem(rest, has_default)
        if root in ROOTS:
            here = self._with(root)
            where = "a map" if root == "item" else "a map or a loop"
            return (
                None if here else ("unknown_name", f"{root} exists only inside {where}")
            )
        known = f"{root} is nothing a path begins with{did_you_mean(root, ROOTS)}"
        return "unknown_name", known

    def _input_problem(self, rest: list[str]) -> Problem | None:
        if not rest:
            return "unknown_input", "inputs needs a name, as in inputs.topic"
        if rest[0] in self.inputs:
            return None
        suggestion = did_you_mean(rest[0], self.inputs)
        return "unknown_input", f"the chain has no input {rest[0]}{suggestion}"

    def _step_problem(self, rest: list[str], has_default: bool) -> Problem | None:
        if len(rest) < 2:
            return "unknown_name", "steps needs a name and a part, as in steps.a.output"
        name = rest[0]
        owner = self._owner(name)
        if owner is None:
            suggestion = did_you_mean(name, self._all_names())
            return "unknown_step", f"no step is named {name}{suggestion}"
        if name not in owner.ended:
            detail = f"{name} does not end before this: put it above, or into needs"
            return "step_not_before", detail
        return owner.steps.part_problem(name, rest[1], has_default)

    def _last_problem(self, rest: list[str], has_default: bool) -> Problem | None:
        loop = self._with("last")
        if loop is None:
            return "unknown_name", "last exists only inside a loop"
        if len(rest) < 2:
            return "unknown_name", "last needs a name and a part, as in last.a.output"
        name, part = rest[:2]
        if name not in loop.steps.kinds:
            suggestion = did_you_mean(name, loop.steps.kinds)
            return "unknown_step", f"no step of the loop is named {name}{suggestion}"
        if not has_default:
            detail = f"the first turn has no last.{name}: add | default(...)"
            return "missing_default", detail
        return loop.steps.part_problem(name, part, has_default)

    def _with(self, own: str) -> Names | None:
        """The innermost list, from here outwards, that has `item`, `index` or `last`."""
        if own in self.own:
            return self
        return self.outer._with(own) if self.outer else None

    def _owner(self, name: str) -> Names | None:
        if name in self.steps.kinds:
            return self
        return self.outer._owner(name) if self.outer else None

    def _all_names(self) -> set[str]:
        return set(self.steps.kinds) | (self.outer._all_names() if self.outer else set())


def _job_problem(path: Path) -> Problem | None:
    if path == ("job", "id") or (path[:2] == ("job", "metadata") and len(path) > 2):
        return None
    return "unknown_name", "of the job there is job.id and job.metadata.NAME"


def _name(step: Json) -> str | None:
    name = step.get("name") if isinstance(step, dict) else None
    return name if isinstance(name, str) else None


def _kind(step: Json) -> str:
    return next((kind for kind in KINDS if step.get(kind) is not None), "")


def _needs(step: Json) -> list[str] | None:
    needs = step.get("needs") if isinstance(step, dict) else None
    if not isinstance(needs, list):
        return None
    return [needed for needed in needs if isinstance(needed, str)]
