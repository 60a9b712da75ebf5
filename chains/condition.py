"""Conditions: CEL expressions behind `when`, `if`, `until` and `over`.

    steps.review.output.score >= 8 && inputs.language != "en"

Google's Common Expression Language cannot define, call out or recurse; its evaluator
stops after 10,000 iterations. What it does not bound is how long a text may become by
adding texts to each other, so `+` is bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from chains.failures import ExpressionFailed
from chains.json_value import Json, json_findings
from chains.template import Lookup, Path

ROOTS = ("inputs", "steps", "item", "index", "last", "job")
"""What a path begins with; the only variables of a condition."""

MAX_ADDED = 16 * 1024
"""Characters and members of what an expression with `+` may read. An expression has
at most 32 operators in a row, so the texts it builds stay within some megabytes."""

_PARTS = ("output", "text", "model")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_PATH = re.compile(
    rf"(?<![\w.])({'|'.join(ROOTS)})\b((?:\s*\.\s*[A-Za-z_]\w*\b(?!\s*\())*)"
)
_LOOP = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(")
_PLACE = re.compile(r"ERROR: <input>:\d+:(\d+): ([^\n]*)")


class ConditionRefused(ValueError):
    """A text that is no condition: the sentence, and the character (from 1)."""

    def __init__(self, detail: str, character: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.character = character


@dataclass(frozen=True)
class Condition:
    """A compiled expression and the paths it reads."""

    text: str
    paths: tuple[Path, ...]
    program: Any
    adds: bool

    @property
    def is_path(self) -> bool:
        """Whether it is nothing but one path, to be looked up and not evaluated."""
        return self.paths == (tuple(self.text.split(".")),)

    @property
    def may_be_true_or_false(self) -> bool:
        """Whether its type, as far as it is known beforehand, is that of a condition."""
        kind = self.program.return_type()
        return bool(kind in (cel.Type.BOOL, cel.Type.DYN))


@lru_cache(maxsize=2048)
def compiled(text: str) -> Condition:
    """The expression, ready to be evaluated; ConditionRefused says what is wrong."""
    bare = _QUOTED.sub(lambda quoted: "'" + " " * (len(quoted[0]) - 2) + "'", text)
    if "+" in bare and _LOOP.search(bare):
        detail = "+ does not go together with all, exists, map or filter"
        raise ConditionRefused(detail, bare.index("+") + 1)
    try:
        program = _environment().compile(text)
    except RuntimeError as error:
        found = _PLACE.search(str(error))
        detail = found[2] if found else str(error).splitlines()[0]
        raise ConditionRefused(_plainly(detail), int(found[1]) if found else 1) from None
    paths = tuple(dict.fromkeys(_path(match) for match in _PATH.finditer(bare)))
    return Condition(text, paths, program, "+" in bare)


def holds(text: str, lookup: Lookup, step: str) -> bool:
    """Whether a condition is true at its place.

    Raises ExpressionFailed, naming `step`, where it cannot be evaluated or gives
    something else than true or false.
    """
    value = evaluated(text, lookup, step)
    if not isinstance(value, bool):
        raise ExpressionFailed(step, text, f"gives {_kind(value)}, not true or false")
    return value


def listed(text: str, lookup: Lookup, step: str) -> list[Json]:
    """The list an expression gives; ExpressionFailed if it gives something else."""
    value = evaluated(text, lookup, step)
    if not isinstance(value, list):
        raise ExpressionFailed(step, text, f"gives {_kind(value)}, not a list")
    return value


def evaluated(text: str, lookup: Lookup, step: str) -> Json:
    """The expression's value; ExpressionFailed names `step` and the reason."""
    try:
        condition = compiled(text)
    except ConditionRefused as refused:  # a chain that did not come through load.py
        raise ExpressionFailed(step, text, refused.detail) from None
    if condition.is_path:
        return lookup(condition.paths[0])
    data = _data(condition.paths, lookup)
    if condition.adds and _size(data) > MAX_ADDED:
        detail = f"adds up more than {MAX_ADDED} characters and members"
        raise ExpressionFailed(step, text, detail)
    try:
        result = condition.program.eval(data=data)
    except RuntimeError as error:  # its iterations are used up
        raise ExpressionFailed(step, text, _reason(str(error))) from None
    value = result.plain_value()
    if result.type() == cel.Type.ERROR:
        raise ExpressionFailed(step, text, _reason(str(value)))
    if findings := json_findings(value):
        raise ExpressionFailed(step, text, f"gives what is not JSON: {findings[0]}")
    return value


@lru_cache(maxsize=1)
def _environment() -> Any:
    return cel.NewEnv(variables=dict.fromkeys(ROOTS, cel.Type.DYN))


def _path(match: re.Match[str]) -> Path:
    return (match[1], *(word.strip() for word in match[2].split(".")[1:]))


def _data(paths: Iterable[Path], lookup: Lookup) -> dict[str, Json]:
    """What an expression can see: only what its paths name."""
    data: dict[str, Json] = {}
    for root, *rest in paths:
        if root in ("item", "index"):
            data[root] = lookup((root,))
        elif root in ("steps", "last") and rest:
            parts = {part: lookup((root, rest[0], part)) for part in _PARTS}
            data.setdefault(root, {})[rest[0]] = parts
        elif rest and (value := lookup((root, rest[0]))) is not None:
            data.setdefault(root, {})[rest[0]] = value
        else:
            data.setdefault(root, {})
    return data


def _size(value: Json) -> int:
    size = 0
    unread = [value]
    while unread and size <= MAX_ADDED:
        member = unread.pop()
        size += len(member) if isinstance(member, str) else 1
        if isinstance(member, dict | list):
            unread.extend(member.values() if isinstance(member, dict) else member)
    return size


def _kind(value: Json) -> str:
    return {list: "a list", dict: "an object", str: "a text", type(None): "null"}.get(
        type(value), str(value)[:40]
    )


def _plainly(message: str) -> str:
    """Without the list of all that could have stood there, and the evaluator's own."""
    return re.sub(r" expecting \{.*|\(in container .*", "", message)[:200].strip()


def _reason(message: str) -> str:
    """Without the evaluator's status word: `NOT_FOUND: Key not found ...`."""
    return re.sub(r"^[A-Z_]+: |\s*\[[A-Z_]+\]$", "", message.splitlines()[0])[:200]
