"""`llm`, `embed`, `tool` and `wait`: a step of its own in the ledger."""

from __future__ import annotations

from chains.chain import Step
from chains.scope import Ended, Scope
from chains.steps import ready
from chains.walk import Cause, End, Failed, StepResult, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """Ended, begun, or ready now."""
    if result := walk.results.get(path):
        walk.spent += result.cost
        if result.state == "failed":
            return Failed((_cause(path, result),))
        return Ended(result.output, result.text, result.model)
    if path in walk.started:
        walk.running.append(path)
    else:
        walk.start(ready(step, path, scope))
    return None


def _cause(path: str, result: StepResult) -> Cause:
    error = result.error or {}
    return Cause(path, str(error.get("code", "")), str(error.get("message", "")))
