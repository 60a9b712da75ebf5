"""The `Idempotency-Key` of a request, and what tells its body from another."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson
from starlette.requests import Request

from gateway.errors import Problem
from llmgine_workers.engine.submit import Key

_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def header_of(request: Request) -> str | None:
    """The key, if one was sent; Problem if it cannot be one."""
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise Problem(
            "invalid_idempotency_key", "one header of 1 to 255 printable ASCII characters"
        )
    return sent[0]


def key_of(header: str | None, body: Any) -> Key | None:
    """The key with its body's hash."""
    return (header, body_hash(body)) if header else None


def body_hash(body: Any) -> bytes:
    """SHA-256 of the canonical JSON: spaces and the order of keys do not count."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
