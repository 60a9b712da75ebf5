"""The rules of a chain that take more than one field to judge.

They read the written document, not the models: then a misspelt key in one step does
not hide an unknown name in another, and every finding has a place in the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chains import chain as grammar
from chains.findings import Finding, pointer
from chains.json_value import Json
from chains.names import Names, StepList
from chains.schema import check_schema, schema_findings
from chains.template import TemplateRefused, parse

NOT_YET: Mapping[str, str] = {
    "map": "a step over each item of a list",
    "branch": "one of several lists of steps",
    "loop": "steps repeated until a condition holds",
    "chain": "another chain as a step",
    "wait": "a step that waits for time, an event or a person",
    "when": "a step under a condition",
}
"""Words of a step that the grammar has and this version does not run."""
NOT_YET_IN_LLM: Mapping[str, str] = {
    "tools": "function calling inside an llm step",
    "max_turns": "function calling inside an llm step",
}
_KINDS = (*grammar.KINDS, *(word for word in NOT_YET if word != "when"))
_ONLY_FOR_WORK = ("timeout", "attempts", "fallback")


def check(document: Mapping[str, Json]) -> list[Finding]:
    """Every broken rule of a document that is an object."""
    return list(_Check(document).findings())


class _Check:
    """One reading of a document, counting its steps."""

    def __init__(self, document: Mapping[str, Json]) -> None:
        self._document = document
        self._inputs = _object(document.get("inputs"))
        self._defaults = _object(document.get("defaults"))
        self._steps = 0

    def findings(self) -> Iterator[Finding]:
        yield from self._check_inputs()
        root = Names(self._inputs)
        if "system" in self._defaults:
            system = self._defaults["system"]
            yield from _texts(system, "/defaults/system", root)
        steps = _list(self._document.get("steps"))
        yield from self._check_list(steps, "/steps", root, 1)
        if self._steps > grammar.MAX_STEPS:
            yield Finding(
                "/steps",
                "too_many_steps",
                f"at most {grammar.MAX_STEPS} steps, got {self._steps}",
                limit=grammar.MAX_STEPS,
            )
        inside = root.inside(StepList(steps))
        yield from _texts(self._document.get("output"), "/output", inside.at_the_end())

    def _check_inputs(self) -> Iterator[Finding]:
        for name, schema in self._inputs.items():
            at = pointer(["inputs", name])
            findings = check_schema(schema, at)
            yield from findings
            if not findings and "default" in schema:
                yield from schema_findings(schema, schema["default"], f"{at}/default")

    def _check_list(
        self, steps: list[Json], at: str, outer: Names, nesting: int
    ) -> Iterator[Finding]:
        self._steps += len(steps)
        if nesting > grammar.MAX_NESTING:
            detail = f"at most {grammar.MAX_NESTING} lists of steps inside each other"
            yield Finding(at, "too_deep", detail, limit=grammar.MAX_NESTING)
            return
        step_list = StepList(steps)
        names = outer.inside(step_list)
        for index, step in enumerate(steps[: grammar.MAX_STEPS]):
            if isinstance(step, dict):
                here = f"{at}/{index}"
                yield from step_list.order_findings(index, here)
                yield from self._check_step(step, here, names.before(index), nesting)

    def _check_step(
        self, step: dict[str, Json], at: str, names: Names, nesting: int
    ) -> Iterator[Finding]:
        yield from _kind_findings(step, at)
        yield from _texts(step.get("fallback"), f"{at}/fallback", names)
        tool = _object(step.get("tool"))
        yield from _texts(tool.get("arguments"), f"{at}/tool/arguments", names)
        if isinstance(step.get("llm"), dict):
            yield from self._check_llm(step["llm"], f"{at}/llm", names)
        for branch, steps in _object(step.get("parallel")).items():
            below = f"{at}/parallel{pointer([branch])}"
            yield from self._check_list(_list(steps), below, names, nesting + 1)

    def _check_llm(
        self, llm: dict[str, Json], at: str, names: Names
    ) -> Iterator[Finding]:
        yield from _not_yet(llm, NOT_YET_IN_LLM, at)
        if llm.get("model") is None and self._defaults.get("model") is None:
            detail = "a model is needed, here or as defaults.model"
            yield Finding(f"{at}/model", "missing_field", detail)
        written = [word for word in ("prompt", "messages") if llm.get(word) is not None]
        if len(written) != 1:
            detail = "write prompt or messages" + (", not both" if written else "")
            yield Finding(at, "invalid_value" if written else "missing_field", detail)
        if written == ["messages"] and _only_system(llm["messages"]):
            detail = "a conversation needs a turn of user or assistant"
            yield Finding(f"{at}/messages", "invalid_value", detail)
        for word in ("system", "prompt", "messages"):
            yield from _texts(llm.get(word), f"{at}/{word}", names)
        if "schema" in llm:
            yield from check_schema(llm["schema"], f"{at}/schema")


def _kind_findings(step: dict[str, Json], at: str) -> Iterator[Finding]:
    yield from _not_yet(step, NOT_YET, at)
    kinds = [kind for kind in _KINDS if step.get(kind) is not None]
    if not kinds:
        detail = f"a step is one of {', '.join(grammar.KINDS)}"
        yield Finding(at, "missing_field", detail)
    if len(kinds) > 1:
        detail = f"a step is one thing, this is {' and '.join(kinds)}"
        yield Finding(at, "invalid_value", detail)
    for word in _ONLY_FOR_WORK:
        if kinds == ["parallel"] and word in step:
            detail = f"{word} of a parallel step is not supported yet: write it inside"
            yield Finding(f"{at}/{word}", "not_supported_yet", detail)


def _not_yet(
    written: dict[str, Json], words: Mapping[str, str], at: str
) -> Iterator[Finding]:
    for word, what in words.items():
        if word in written:
            detail = f"{word} ({what}) is not supported yet"
            yield Finding(f"{at}/{word}", "not_supported_yet", detail)


def _texts(value: Json, at: str, names: Names) -> Iterator[Finding]:
    """Findings of every text inside a value."""
    if isinstance(value, dict | list):
        members: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            yield from _texts(member, at + pointer([key]), names)
    if not isinstance(value, str):
        return
    try:
        template = parse(value)
    except TemplateRefused as refused:
        yield Finding(at, refused.code, refused.detail)
        return
    for expression in template.expressions:
        if expression.path and (problem := names.problem(expression)):
            yield Finding(at, *problem)


def _only_system(messages: Json) -> bool:
    roles = [_object(message).get("role") for message in _list(messages)]
    return bool(roles) and all(role == "system" for role in roles)


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
