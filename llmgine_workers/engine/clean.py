"""What may be stored: no NUL, no lone surrogate, nothing over the size limit.

PostgreSQL refuses the first two, and a result that cannot be stored would otherwise
be paid for again and again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from llmgine_workers.errors import Failure, StepFailed

MAX_PAYLOAD = 4 * 1024**2
"""Bytes of one stored request, result or output."""


def as_json(value: Any) -> str:
    """JSON that the ledger takes; StepFailed `too_large` beyond MAX_PAYLOAD."""
    try:
        body = orjson.dumps(value)
    except orjson.JSONEncodeError:
        body = orjson.dumps(_mended(value))
    if b"\\u0000" in body:
        body = orjson.dumps(_mended(value))
    if len(body) > MAX_PAYLOAD:
        raise StepFailed(
            Failure("too_large", f"{len(body)} bytes; at most {MAX_PAYLOAD} are stored")
        )
    return body.decode()


def clean_text(text: str) -> str:
    """Text without NUL; lone surrogates become the replacement character."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode() if not _encodable(text) else text


def clean_failure(failure: Failure) -> Failure:
    """A failure whose words, partly a service's or a tool's own, can be stored."""
    request_id = failure.request_id and clean_text(failure.request_id)
    return replace(failure, message=clean_text(failure.message), request_id=request_id)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _mended(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    return value
