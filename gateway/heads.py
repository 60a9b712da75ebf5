"""How much a request may say before its body: the address and the headers."""

from __future__ import annotations

from starlette.types import Scope

from gateway.errors import Problem

MAX_HEADERS = 100
MAX_HEAD_BYTES = 32 * 1024


def refusal(scope: Scope) -> Problem | None:
    """Why a head is not taken, if it is not."""
    headers = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in headers)
    if len(headers) <= MAX_HEADERS and size <= MAX_HEAD_BYTES:
        return None
    return too_large()


def too_large() -> Problem:
    """The refusal; the connection cannot be used again."""
    return Problem(
        "headers_too_large",
        f"address and headers may have {MAX_HEAD_BYTES} bytes, at most {MAX_HEADERS} "
        "headers",
        headers={"Connection": "close"},
    )
