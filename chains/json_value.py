"""Is a decoded document plain JSON that every store of ours can hold?"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from chains.findings import Finding, pointer

Json: TypeAlias = Any
"""None, bool, int, float, str, or a list or a str-keyed dict of these. `Any`,
because a recursive alias would make pydantic check every nested value again."""

MAX_DEPTH = 64
"""Nested containers of a document. Eight nested lists of steps need 24, and what
reads them after us recurses (orjson stops at 254, jsonschema-rs overflows its
stack at some tens of thousands)."""

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1  # what orjson can write
_SHOWN_DEPTH = 32
_Place: TypeAlias = tuple[str | int, ...]


def json_findings(document: Json, max_depth: int = MAX_DEPTH) -> list[Finding]:
    """What is not storable JSON in a document, however deep it is."""
    findings: list[Finding] = []
    unread: list[tuple[_Place, Any]] = [((), document)]
    while unread:
        place, value = unread.pop()
        if not isinstance(value, dict | list):
            problem = _problem(value)
        elif len(place) >= max_depth:
            problem = "too_deep", f"at most {max_depth} levels inside each other"
        elif isinstance(value, list):
            problem = None
            unread.extend(((*place, i), member) for i, member in enumerate(value))
        else:
            problem = _key_problem(value)
            unread.extend(((*place, str(key)), value[key]) for key in value)
        if problem:
            findings.append(Finding(pointer(place[:_SHOWN_DEPTH]), *problem))
    return findings


def _key_problem(value: dict[Any, Any]) -> tuple[str, str] | None:
    for key in value:
        if not isinstance(key, str):
            return "invalid_type", f"keys are texts, not {type(key).__name__}"
        if problem := _text_problem(key):
            return problem
    return None


def _problem(value: Any) -> tuple[str, str] | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _text_problem(value)
    if isinstance(value, int) and not _LEAST_INT <= value <= _MOST_INT:
        return "invalid_number", "integers must fit into 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "invalid_number", "NaN and infinity are not JSON"
    if isinstance(value, int | float):
        return None
    return "invalid_type", f"{type(value).__name__} is not JSON"


def _text_problem(text: str) -> tuple[str, str] | None:
    if "\0" in text:
        return "nul_not_allowed", "PostgreSQL cannot store the character U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "invalid_unicode", "a lone surrogate is not a character"
    return None
