"""`branch`: the first case whose condition holds; null if none does."""

from __future__ import annotations

from chains.chain import Step
from chains.condition import holds
from chains.scope import Ended, Scope
from chains.walk import End, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """Conditions are asked in order, and none behind the first that holds."""
    for number, case in enumerate(step.branch or ()):
        if case.condition is None or holds(case.condition, scope.lookup, path):
            return walk.block(case, f"{path}.{number}.", scope)
    return Ended(None)
