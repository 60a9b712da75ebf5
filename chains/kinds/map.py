"""`map`: the same steps for each item of a list; the output is a list in order."""

from __future__ import annotations

from chains.chain import MAX_ITEMS, Map, Step
from chains.condition import listed
from chains.failures import ExpressionFailed
from chains.json_value import Json
from chains.scope import Ended, Scope
from chains.walk import End, Failed, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """Items begin in order, so many at once as `concurrency` says."""
    spec = step.map
    assert spec is not None  # noqa: S101 - the step's kind says so
    since, outputs, failures, unfinished = walk.mark(), [], [], 0
    for index, item in enumerate(_items(spec, path, scope)):
        if unfinished == spec.concurrency:
            break
        end = _item(walk, spec, f"{path}.{index}.", scope, {"item": item, "index": index})
        if end is None:
            unfinished += 1
        elif isinstance(end, Ended):
            outputs.append(end.output)
        elif spec.on_error == "fail":
            failures.append(end)
        elif spec.on_error == "collect":
            outputs.append({"error": end.causes[0]._asdict()})
    if failures:
        return walk.give_up(since, failures)
    return None if unfinished else Ended(outputs)


def _item(walk: Walk, spec: Map, prefix: str, scope: Scope, own: dict[str, Json]) -> End:
    """One item; where a failure is not the map's, it waits for what runs beside it."""
    since = walk.mark()
    end = walk.block(spec, prefix, scope, own)
    if isinstance(end, Failed) and spec.on_error != "fail" and walk.runs_on(since):
        return None
    return end


def _items(spec: Map, path: str, scope: Scope) -> list[Json]:
    items = listed(spec.over, scope.lookup, path)
    if len(items) > MAX_ITEMS:
        detail = f"has {len(items)} items, at most {MAX_ITEMS} are mapped"
        raise ExpressionFailed(path, spec.over, detail)
    return items
