"""The rules of a chain that take more than one field to judge.

They read the written document, not the models: then a misspelt key in one step does
not hide an unknown name in another, and every finding has a place in the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chains import chain as grammar
from chains.condition import Condition, ConditionRefused, compiled
from chains.findings import Finding, pointer
from chains.json_value import Json
from chains.names import Names, StepList
from chains.schema import check_schema, schema_findings
from chains.template import TemplateRefused, parse

NOT_YET_IN_WAIT: Mapping[str, str] = {
    "approval": "a wait for a person",
    "event": "a wait for an event",
}
"""Words that the grammar has and this version does not run."""
NOT_YET_IN_LLM: Mapping[str, str] = {
    "tools": "function calling inside an llm step",
    "max_turns": "function calling inside an llm step",
}
_FOR_WORK = ("timeout", "attempts")


def check(document: Mapping[str, Json]) -> list[Finding]:
    """Every broken rule of a document that is an object."""
    return list(_Check().chain(document, "", 1))


class _Check:
    """One reading of a document, counting its steps."""

    def __init__(self) -> None:
        self._steps = 0

    def chain(
        self, document: Mapping[str, Json], at: str, nesting: int
    ) -> Iterator[Finding]:
        """A chain, which may be a step of another one."""
        inputs, defaults = _object(document.get("inputs")), document.get("defaults")
        yield from _inputs(inputs, f"{at}/inputs")
        root = Names(inputs)
        for word in ("system", *grammar.NUMBERS):
            text = _object(defaults).get(word)
            yield from _texts(text, f"{at}/defaults/{word}", root)
        reader = _Steps(self, _object(defaults).get("model") is not None)
        yield from reader.block(document, at, root, nesting)
        if nesting == 1 and self._steps > grammar.MAX_STEPS:
            detail = f"at most {grammar.MAX_STEPS} steps, got {self._steps}"
            yield Finding("/steps", "too_many_steps", detail, limit=grammar.MAX_STEPS)

    def count(self, steps: int) -> None:
        """So many steps more."""
        self._steps += steps


class _Steps:
    """The lists of steps of one chain."""

    def __init__(self, whole: _Check, has_model: bool) -> None:
        self._whole = whole
        self._has_model = has_model

    def block(
        self,
        block: Mapping[str, Json],
        at: str,
        outer: Names,
        nesting: int,
        own: tuple[str, ...] = (),
    ) -> Iterator[Finding]:
        """A list of steps with what stands beside it."""
        steps = _list(block.get("steps"))
        yield from self.list(steps, f"{at}/steps", outer, nesting, own)
        inside = outer.inside(StepList(steps), own).at_the_end()
        yield from _texts(block.get("output"), f"{at}/output", inside)
        if "until" in block:
            yield from _condition(block["until"], f"{at}/until", inside)

    def list(
        self,
        steps: list[Json],
        at: str,
        outer: Names,
        nesting: int,
        own: tuple[str, ...] = (),
    ) -> Iterator[Finding]:
        """Steps one below the other."""
        self._whole.count(len(steps))
        if nesting > grammar.MAX_NESTING:
            detail = f"at most {grammar.MAX_NESTING} lists of steps inside each other"
            yield Finding(at, "too_deep", detail, limit=grammar.MAX_NESTING)
            return
        step_list = StepList(steps)
        names = outer.inside(step_list, own)
        for index, step in enumerate(steps[: grammar.MAX_STEPS]):
            if isinstance(step, dict):
                here = f"{at}/{index}"
                yield from step_list.order_findings(index, here)
                yield from self._step(step, here, names.before(index), nesting)

    def _step(
        self, step: dict[str, Json], at: str, names: Names, nesting: int
    ) -> Iterator[Finding]:
        yield from _kind_findings(step, at)
        yield from _texts(step.get("fallback"), f"{at}/fallback", names)
        if "when" in step:
            yield from _condition(step["when"], f"{at}/when", names)
        tool, wait = _object(step.get("tool")), _object(step.get("wait"))
        yield from _texts(tool.get("arguments"), f"{at}/tool/arguments", names)
        if isinstance(step.get("llm"), dict):
            yield from self._llm(step["llm"], f"{at}/llm", names)
        embed = _object(step.get("embed"))
        for word in ("input", "dimensions"):
            yield from _texts(embed.get(word), f"{at}/embed/{word}", names)
        if isinstance(step.get("wait"), dict):
            yield from _wait(wait, f"{at}/wait", names)
        yield from self._inner(step, at, names, nesting + 1)

    def _inner(
        self, step: dict[str, Json], at: str, names: Names, nesting: int
    ) -> Iterator[Finding]:
        """The steps inside a step."""
        for branch, steps in _object(step.get("parallel")).items():
            below = f"{at}/parallel{pointer([branch])}"
            yield from self.list(_list(steps), below, names, nesting)
        for number, case in enumerate(_list(step.get("branch"))):
            yield from self._case(_object(case), f"{at}/branch/{number}", names, nesting)
        if mapped := _object(step.get("map")):
            yield from _condition(mapped.get("over"), f"{at}/map/over", names, True)
            own = ("item", "index")
            yield from self.block(mapped, f"{at}/map", names, nesting, own)
        if loop := _object(step.get("loop")):
            own = ("index", "last")
            yield from self.block(loop, f"{at}/loop", names, nesting, own)
        if chain := _object(step.get("chain")):
            yield from _texts(chain.get("inputs"), f"{at}/chain/inputs", names)
            yield from self._chain(chain, f"{at}/chain", nesting)

    def _case(
        self, case: dict[str, Json], at: str, names: Names, nesting: int
    ) -> Iterator[Finding]:
        if "if" in case:
            yield from _condition(case["if"], f"{at}/if", names)
        yield from self.block(case, at, names, nesting)

    def _chain(self, step: dict[str, Json], at: str, nesting: int) -> Iterator[Finding]:
        inner = step.get("use")
        if isinstance(inner, dict):
            yield from self._whole.chain(inner, f"{at}/use", nesting)
            given = _object(step.get("inputs"))
            yield from _given(inner, given, at)

    def _llm(self, llm: dict[str, Json], at: str, names: Names) -> Iterator[Finding]:
        yield from _not_yet(llm, NOT_YET_IN_LLM, at)
        if llm.get("model") is None and not self._has_model:
            detail = "a model is needed, here or as defaults.model"
            yield Finding(f"{at}/model", "missing_field", detail)
        written = [word for word in ("prompt", "messages") if llm.get(word) is not None]
        if len(written) != 1:
            detail = "write prompt or messages" + (", not both" if written else "")
            yield Finding(at, "invalid_value" if written else "missing_field", detail)
        if written == ["messages"] and _only_system(llm["messages"]):
            detail = "a conversation needs a turn of user or assistant"
            yield Finding(f"{at}/messages", "invalid_value", detail)
        for word in ("system", "prompt", "messages", *grammar.NUMBERS):
            yield from _texts(llm.get(word), f"{at}/{word}", names)
        if "schema" in llm:
            yield from check_schema(llm["schema"], f"{at}/schema")


def _inputs(inputs: Mapping[str, Json], at: str) -> Iterator[Finding]:
    for name, schema in inputs.items():
        here = at + pointer([name])
        findings = check_schema(schema, here)
        yield from findings
        if not findings and "default" in schema:
            yield from schema_findings(schema, schema["default"], f"{here}/default")


def _given(
    inner: Mapping[str, Json], given: Mapping[str, Json], at: str
) -> Iterator[Finding]:
    """Whether the inputs of an inner chain have the names that it knows."""
    inputs = _object(inner.get("inputs"))
    for name in given.keys() - inputs.keys():
        detail = "the chain has no such input"
        yield Finding(f"{at}/inputs{pointer([name])}", "unknown_field", detail)
    for name, schema in inputs.items():
        if name not in given and "default" not in _object(schema):
            detail = "required: it has no default"
            yield Finding(f"{at}/inputs{pointer([name])}", "missing_field", detail)


def _kind_findings(step: dict[str, Json], at: str) -> Iterator[Finding]:
    kinds = [kind for kind in grammar.KINDS if step.get(kind) is not None]
    if not kinds:
        detail = f"a step is one of {', '.join(grammar.KINDS)}"
        yield Finding(at, "missing_field", detail)
    if len(kinds) > 1:
        detail = f"a step is one thing, this is {' and '.join(kinds)}"
        yield Finding(at, "invalid_value", detail)
    for word in _FOR_WORK:
        if len(kinds) == 1 and word in step and kinds[0] not in grammar.WORKING:
            detail = f"a {kinds[0]} step has no {word}: it is for steps that work"
            yield Finding(f"{at}/{word}", "invalid_value", detail)


def _wait(wait: dict[str, Json], at: str, names: Names) -> Iterator[Finding]:
    yield from _not_yet(wait, NOT_YET_IN_WAIT, at)
    written = [word for word in ("for", "approval", "event") if word in wait]
    if len(written) != 1:
        detail = "a wait is exactly one of for, approval and event"
        yield Finding(at, "invalid_value", detail)
    for word, beside in (("form", "approval"), ("key", "event")):
        if word in wait and beside not in wait:
            yield Finding(f"{at}/{word}", "invalid_value", f"goes with {beside} only")
    if "form" in wait:
        yield from check_schema(wait["form"], f"{at}/form")
    for word in ("approval", "key"):
        yield from _texts(wait.get(word), f"{at}/{word}", names)


def _not_yet(
    written: dict[str, Json], words: Mapping[str, str], at: str
) -> Iterator[Finding]:
    for word, what in words.items():
        if word in written:
            detail = f"{word} ({what}) is not supported yet"
            yield Finding(f"{at}/{word}", "not_supported_yet", detail)


def _condition(
    value: Json, at: str, names: Names, gives_list: bool = False
) -> Iterator[Finding]:
    """Findings of an expression; of its length the grammar speaks."""
    if not isinstance(value, str) or not 0 < len(value) <= grammar.MAX_EXPRESSION:
        return
    try:
        condition = compiled(value)
    except ConditionRefused as refused:
        detail = f"{refused.detail} (character {refused.character})"
        yield Finding(at, "invalid_expression", detail)
        return
    if not gives_list and not condition.may_be_true_or_false:
        yield Finding(at, "invalid_expression", "a condition gives true or false")
    yield from _paths(condition, at, names)


def _paths(condition: Condition, at: str, names: Names) -> Iterator[Finding]:
    asks_first = "has(" in condition.text or ("index",) in condition.paths
    for path in condition.paths:
        if problem := names.problem(path, has_default=asks_first):
            yield Finding(at, *problem)


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
        if expression.path and (
            problem := names.problem(expression.path, has_default=expression.has_default)
        ):
            yield Finding(at, *problem)


def _only_system(messages: Json) -> bool:
    roles = [_object(message).get("role") for message in _list(messages)]
    return bool(roles) and all(role == "system" for role in roles)


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
