"""A request's body: JSON, read strictly, with everything that is wrong said at once.

Stricter than a parser needs to be, because what gets in here is kept and forwarded:
two readers of a doubled key, a NaN or a lone surrogate would not read the same.
"""

from __future__ import annotations

import json
from typing import Any, Never

from starlette.requests import Request

from chains.findings import pointer
from chains.json_value import json_findings
from gateway.errors import Finding, Problem

MAX_DEPTH = 32
"""Objects and lists inside each other (reliability rule J8)."""


async def read_json(request: Request, max_bytes: int) -> Any:
    """The decoded body; Problem for whatever is not clean JSON of at most that size."""
    _check_media_type(request)
    return decode(await _read(request, max_bytes))


def decode(body: bytes) -> Any:
    """Bytes to plain values; Problem says where they are not JSON."""
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


async def _read(request: Request, max_bytes: int) -> bytes:
    """Never holds more than the limit and one chunk, whatever the headers say."""
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


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        _refuse("invalid_unicode", f"byte {error.start} of the body is not UTF-8")
    if text.startswith("\ufeff"):
        _refuse("invalid_json", "line 1, column 1: a byte order mark is not JSON")
    return text


def _parse(text: str) -> Any:
    doubled: list[Finding] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            doubled.append(_twice([key for key, _ in pairs]))
        return found

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
    if doubled:
        raise Problem.of(doubled)
    return value


def _twice(keys: list[str]) -> Finding:
    seen: set[str] = set()
    key = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return {
        "pointer": pointer([key]),
        "code": "duplicate_key",
        "detail": "the key is there twice",
    }


def _refuse_constant(name: str) -> Never:
    _refuse("invalid_number", f"{name} is not JSON")


def _refuse(code: str, detail: str) -> Never:
    raise Problem(code, detail)


def _too_large(max_bytes: int) -> Never:
    # The rest of the body is not read, so the connection cannot be used again.
    raise Problem(
        "body_too_large", f"at most {max_bytes} bytes", headers={"Connection": "close"}
    )
