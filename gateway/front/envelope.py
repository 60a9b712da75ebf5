"""Refusals and failures as OpenAI's clients read them: `{"error": {...}}`.

The codes are ours, of `docs/errors.md`; only the shape and the statuses are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from gateway.errors import PROBLEMS, Problem, headers_of, shortened
from llmgine_workers.engine.clean import as_json

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/models")
"""What answers in this shape, and everything below."""

NO_RETRY = {"x-should-retry": "false"}
"""Stops their clients from asking again: it would be a second job."""

_NO_SUCH_MODEL = frozenset(
    {
        "unknown_model",
        "unknown_provider",
        "provider_not_enabled",
        "embeddings_not_supported",
    }
)

FAILED: Mapping[str, int] = {
    "provider_rejected": 400,
    "context_too_long": 400,
    "content_refused": 400,
    "too_large": 400,
    "exceeds_limit": 400,
    "template_failed": 400,
    "provider_unreachable": 503,
    "provider_unavailable": 503,
    "provider_overloaded": 503,
    "provider_rate_limited": 503,
    "provider_timeout": 504,
    "step_timeout": 504,
    "job_timeout": 504,
    "max_crashes": 500,
    "cancelled": 409,
}
"""The status of a job that failed with a code, where it is not that of a refusal."""
FAILED_OTHERWISE = 502
"""Of all other codes: somebody behind us did not do what they should."""

_PLACES = (
    (re.compile(r"^/chain/steps/0/\w+/schema"), "/response_format/json_schema/schema"),
    (re.compile(r"^/chain/steps/0/\w+/"), "/"),
    (re.compile(r"^/chain.*"), "/model"),
    (re.compile(r"^/inputs(/|$)"), "/"),
    (re.compile(r"^/options/"), "/header/llmgine_"),
)
"""From a place in the job to the place in the request it was made of."""


def is_theirs(path: str) -> bool:
    """Whether an address is answered in this shape."""
    return any(path == one or path.startswith(f"{one}/") for one in PATHS)


def respond(problem: Problem) -> Response:
    """A refused request; its id is in the header `x-request-id`."""
    status = status_of(problem.code)
    where = problem.findings[0]["pointer"] if problem.findings else ""
    body = error(status, problem.code, problem.detail, param_of(str(where)))
    return Response(
        as_json({"error": body}), status, headers_of(problem), "application/json"
    )


def failed(failure: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """A job that ended without an answer."""
    status, body = failure_of(failure)
    return Response(
        as_json({"error": body}), status, {**headers, **NO_RETRY}, "application/json"
    )


def failure_of(failure: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The status and the error of a job that ended without an answer."""
    code = str(failure["code"])
    otherwise = PROBLEMS[code].status if code in PROBLEMS else FAILED_OTHERWISE
    status = FAILED.get(code, otherwise)
    return status, error(status, code, str(failure["message"]))


def error(
    status: int, code: str, message: str, param: str | None = None
) -> dict[str, Any]:
    """The object inside the envelope."""
    return {
        "message": shortened(message),
        "type": _type(status),
        "param": param,
        "code": code,
    }


def status_of(code: str) -> int:
    """The status of a refusal: theirs has no 422."""
    status = PROBLEMS[code].status
    if code in _NO_SUCH_MODEL:
        return 404
    return 400 if status == 422 else status


def param_of(pointer: str) -> str | None:
    """`/messages/0/content` as `messages[0].content`; a header by its name."""
    for pattern, place in _PLACES:
        pointer, changed = pattern.subn(place, pointer)
        if changed:
            break
    words = [word for word in pointer.split("/") if word]
    if words[:1] == ["header"]:
        return "-".join(part.capitalize() for part in re.split("[-_]", words[-1]))
    named = "".join(f"[{word}]" if word.isdigit() else f".{word}" for word in words)
    return shortened(named.lstrip(".")) or None


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {402: "insufficient_quota", 429: "rate_limit_error"}.get(
        status, "invalid_request_error"
    )
