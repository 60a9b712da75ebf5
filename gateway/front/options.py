"""What a client says in headers: how its job is to run, and how long it will wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "priority": str,
    "timeout": str,
    "max_attempts": int,
    "max_cost_usd": float,
}
"""Options of a job that a header `Llmgine-NAME` sets."""

READ_TIMEOUT = "x-stainless-read-timeout"
"""How long the official clients wait for an answer (seconds)."""

ANSWER_BEFORE_S = 1.0
"""We answer so long before the client gives up: or it would ask again, for a new job."""


def job_options(request: Request) -> dict[str, Any]:
    """The options that headers set, unchecked."""
    found = {}
    for name, read in OPTIONS.items():
        sent = request.headers.get(f"llmgine-{name.replace('_', '-')}")
        if sent is None:
            continue
        try:
            found[name] = read(sent)
        except ValueError:
            found[name] = sent  # refused with its name where options are checked
    return found


def client_waits_s(request: Request) -> float | None:
    """How long this client waits for the first byte; None if it does not say."""
    try:
        seconds = float(request.headers.get(READ_TIMEOUT, ""))
    except ValueError:
        return None
    return max(ANSWER_BEFORE_S, seconds - ANSWER_BEFORE_S) if seconds > 0 else None
