"""`loop`: steps again and again until a condition holds; the last turn's output."""

from __future__ import annotations

from collections.abc import Mapping

from chains.chain import Loop, Step
from chains.condition import holds
from chains.failures import LoopLimit
from chains.json_value import Json
from chains.scope import Scope
from chains.walk import End, ListEnd, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """Turn by turn; `last` is what the turn before has left."""
    loop = step.loop
    assert loop is not None  # noqa: S101 - the step's kind says so
    before = walk.spent
    last: Mapping[str, Json] = {}
    for turn in range(loop.max_iterations):
        _check_money(loop, path, walk.spent - before)
        prefix = f"{path}.{turn}."
        end = walk.steps(loop.steps, prefix, scope, {"index": turn, "last": last})
        if not isinstance(end, ListEnd):
            return end
        if holds(loop.until, end.scope.lookup, path):
            return walk.output(loop, prefix, end)
        last = _left(end)
    raise LoopLimit(path, f"{loop.until} does not hold after {loop.max_iterations} turns")


def _left(end: ListEnd) -> Mapping[str, Json]:
    return {name: ended._asdict() for name, ended in end.scope.ended.items()}


def _check_money(loop: Loop, path: str, spent: int) -> None:
    if loop.max_cost_usd is not None and spent >= loop.max_cost_usd * 1_000_000:
        detail = f"${spent / 1_000_000:.6f} of ${loop.max_cost_usd} are spent"
        raise LoopLimit(path, detail)
