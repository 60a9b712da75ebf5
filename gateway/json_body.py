"""A request's body: JSON, read strictly, with everything that is wrong said at once.

Stricter than a parser needs to be, because what gets in here is kept and forwarded:
two readers of a doubled key, a NaN or a lone surrogate would not read the same.
"""

from __future__ import annotations

import json
import re
from typing import Any, Never

from starlette.requests import Request

from chains.findings import MAX_FINDINGS, pointer
from chains.json_value import json_findings
from gateway.errors import Finding, Problem

MAX_DEPTH = 32
"""Objects and lists inside each other (reliability rule J8)."""
MAX_VALUES = 500_000
"""In one body: `[],` is 3 bytes on the wire and a hundred in memory."""

# Never backtracks, and takes a text without an end to the body's end: linear.
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_MARKS = (b",", b"[", b"{")


class _Doubled(dict[str, Any]):
    """An object in which a key was written twice."""

    key: str


async def read_body(request: Request, max_bytes: int) -> bytes:
    """A JSON request's body; Problem for another type, or more than that.

    Never holds more than the limit and one chunk, whatever the headers say.
    """
    _check_media_type(request)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        _too_large(max_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def decode(body: bytes) -> Any:
    """Bytes to plain values; Problem says where they are not JSON."""
    if _values(body) > MAX_VALUES:
        _refuse("body_too_large", f"at most {MAX_VALUES} values")
    value = _parse(_text(body))
    findings = [finding.as_dict() for finding in json_findings(value, MAX_DEPTH)]
    if findings:
        raise Problem.of(sorted(findings, key=lambda finding: str(finding["pointer"])))
    return value


def _check_media_type(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or (
        charset not in ("", "charset=utf-8")
    ):
        _refuse("unsupported_media_type", "send Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        _refuse("unsupported_media_type", "send the body without a Content-Encoding")


def _values(body: bytes) -> int:
    """At least as many as there are; exact, texts left out, only where it matters."""
    at_most = sum(body.count(mark) for mark in _MARKS)
    if at_most <= MAX_VALUES:
        return at_most
    bare = _TEXTS.sub(b"", body)
    return sum(bare.count(mark) for mark in _MARKS)


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        _refuse("invalid_unicode", f"byte {error.start} of the body is not UTF-8")
    if text.startswith("\ufeff"):
        _refuse("invalid_json", "line 1, column 1: a byte order mark is not JSON")
    return text


def _parse(text: str) -> Any:
    has_doubled = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_doubled
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        has_doubled = True
        doubled = _Doubled(found)
        doubled.key = _twice([key for key, _ in pairs])
        return doubled

    try:
        value = json.loads(
            text, object_pairs_hook=members, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        _refuse("invalid_json", f"line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        _refuse("too_deep", f"at most {MAX_DEPTH} levels inside each other")
    except ValueError:  # an integer of more digits than Python converts
        _refuse("invalid_number", "integers must fit into 64 bits")
    if has_doubled:
        raise Problem.of(_doubled_keys(value))
    return value


def _twice(keys: list[str]) -> str:
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _doubled_keys(document: Any) -> list[Finding]:
    """Every key that is there twice, in reading order."""
    found: list[Finding] = []
    unread: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while unread and len(found) < MAX_FINDINGS:
        place, value = unread.pop()
        if isinstance(value, _Doubled):
            at = pointer([*place, value.key])
            detail = "the key is there twice"
            found.append({"pointer": at, "code": "duplicate_key", "detail": detail})
        if isinstance(value, dict):
            unread += [((*place, key), value[key]) for key in reversed(value)]
        elif isinstance(value, list):
            unread += [((*place, n), value[n]) for n in reversed(range(len(value)))]
    return found


def _refuse_constant(name: str) -> Never:
    _refuse("invalid_number", f"{name} is not JSON")


def _refuse(code: str, detail: str) -> Never:
    raise Problem(code, detail)


def _too_large(max_bytes: int) -> Never:
    # The rest of the body is not read, so the connection cannot be used again.
    raise Problem(
        "body_too_large", f"at most {max_bytes} bytes", headers={"Connection": "close"}
    )
