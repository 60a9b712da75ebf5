"""What pydantic found wrong with a request, in the words and codes of the interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chains.findings import did_you_mean, pointer, shown
from gateway.errors import PROBLEMS, Finding

_BOUNDS = {
    "le": "at most", "lt": "less than", "ge": "at least", "gt": "more than",
    "max_length": "at most", "min_length": "at least",
}  # fmt: skip
_UNITS = {"string": " characters", "too": " members"}


def findings_of(
    errors: Iterable[Mapping[str, Any]], known: Sequence[str] = ()
) -> list[Finding]:
    """Every error as a finding; `known` are the names an unknown one may have meant."""
    return [_finding(error, known) for error in errors]


def _finding(error: Mapping[str, Any], known: Sequence[str]) -> Finding:
    place = [part for part in error["loc"] if part != "[key]"]
    kind, context = error["type"], error.get("ctx") or {}
    found: dict[str, Any] = {"pointer": pointer(place)}
    if kind in PROBLEMS:
        return {**found, "code": kind, "detail": error["msg"], **context}
    if kind == "extra_forbidden":
        detail = f"not a field of a request{did_you_mean(str(place[-1]), known)}"
        return {**found, "code": "unknown_field", "detail": detail}
    bound = next((name for name in _BOUNDS if name in context), None)
    if bound is not None:
        detail = _out_of_range(bound, context[bound], kind, error["input"])
        return {
            **found,
            "code": "out_of_range",
            "detail": detail,
            "limit": context[bound],
        }
    code = "out_of_range" if kind == "literal_error" else "invalid_input"
    detail = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return {**found, "code": code, "detail": _expected(kind, detail, error["input"])}


def _out_of_range(bound: str, limit: Any, kind: str, got: Any) -> str:
    unit = _UNITS.get(kind.partition("_")[0], "")
    size = f"{len(got)}{unit}" if unit else shown(got)
    return f"{_BOUNDS[bound]} {limit}{unit}, got {size}"


def _expected(kind: str, expected: str, got: Any) -> str:
    if kind in ("missing", "value_error"):
        return expected
    if kind in ("model_type", "dict_type"):
        expected = "an object"
    return f"must be {expected}, got {shown(got)}"
