"""`parallel`: named lists side by side; the output is an object by their names."""

from __future__ import annotations

from chains.chain import Step
from chains.scope import Ended, Scope
from chains.walk import End, Failed, ListEnd, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """Every list goes as far as it can."""
    since = walk.mark()
    ends = {
        name: walk.steps(steps, f"{path}.{name}.", scope)
        for name, steps in (step.parallel or {}).items()
    }
    if failures := [end for end in ends.values() if isinstance(end, Failed)]:
        return walk.give_up(since, failures)
    outputs = {
        name: end.last.output for name, end in ends.items() if isinstance(end, ListEnd)
    }
    return Ended(outputs) if len(outputs) == len(ends) else None
