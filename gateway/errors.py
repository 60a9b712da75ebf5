"""Every refusal of the gateway: one table of codes, one shape, whoever refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from chains.findings import MAX_FINDINGS
from llmgine_workers.engine.clean import as_json, clean_text

MEDIA_TYPE = "application/problem+json"
_MAX_SENTENCE = 2000

Finding = Mapping[str, Any]
"""`{pointer, code, detail}`, with `limit` or `suggestion` where there is one."""


@dataclass(frozen=True)
class Kind:
    """What a code stands for. `retry_after_s`: when trying again makes sense."""

    status: int
    title: str
    retry_after_s: int | None = None


PROBLEMS: dict[str, Kind] = {
    "invalid_json": Kind(400, "The body is not JSON"),
    "duplicate_key": Kind(400, "The body has a key twice"),
    "too_deep": Kind(400, "The body is nested too deep"),
    "invalid_number": Kind(400, "The body has a number that JSON does not know"),
    "invalid_unicode": Kind(400, "The body has text that is not Unicode"),
    "invalid_idempotency_key": Kind(400, "The Idempotency-Key cannot be used"),
    "invalid_cursor": Kind(400, "The cursor is not one of ours"),
    "unauthenticated": Kind(401, "A valid API key is needed"),
    "budget_exhausted": Kind(402, "The budget is used up"),
    "missing_scope": Kind(403, "The API key may not do this"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "The method does not fit the path"),
    "already_finished": Kind(409, "The job has ended"),
    "already_resolved": Kind(409, "It is resolved already"),
    "body_too_large": Kind(413, "The body is too large"),
    "batch_too_large": Kind(413, "The batch has too many jobs"),
    "unsupported_media_type": Kind(415, "The body must be JSON"),
    "unsupported_parameter": Kind(422, "A parameter is not supported"),
    "unknown_field": Kind(422, "The request has a field nobody knows"),
    "invalid_input": Kind(422, "The request does not fit"),
    "out_of_range": Kind(422, "A value is out of its range"),
    "nul_not_allowed": Kind(422, "A text has the character U+0000"),
    "invalid_chain": Kind(422, "The chain cannot run"),
    "unknown_chain": Kind(422, "There is no such chain"),
    "unknown_tool": Kind(422, "There is no such tool"),
    "unknown_provider": Kind(422, "There is no such provider"),
    "unknown_model": Kind(422, "There is no such model"),
    "embeddings_not_supported": Kind(422, "The provider has no embeddings"),
    "provider_not_enabled": Kind(422, "The provider is not enabled here"),
    "prompt_too_long": Kind(422, "The prompt is longer than the model reads"),
    "exceeds_limit": Kind(422, "The request is larger than a limit will ever admit"),
    "exceeds_budget": Kind(422, "The request costs more than its budget"),
    "idempotency_mismatch": Kind(422, "The Idempotency-Key belongs to another request"),
    "webhook_not_allowed": Kind(422, "The webhook is not allowed"),
    "too_many_requests": Kind(429, "Too many requests", retry_after_s=1),
    "tenant_queue_full": Kind(429, "The tenant's queue is full", retry_after_s=10),
    "headers_too_large": Kind(431, "The headers are too large"),
    "internal": Kind(500, "The gateway made a mistake"),
    "not_finished": Kind(504, "The job has not ended yet"),
    "ledger_unavailable": Kind(503, "The ledger does not answer", retry_after_s=2),
}
"""Codes of interface section 5, `internal` for a defect of ours, and what only the
front in OpenAI's format says: `unsupported_parameter` and `not_finished`."""


class Problem(Exception):
    """A refused request: a code of the table, one sentence, and all findings."""

    def __init__(
        self,
        code: str,
        detail: str,
        findings: Sequence[Finding] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.findings = findings
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Problem:
        """The findings of one request; the code with the lowest status leads."""
        first = min(findings, key=lambda finding: _kind(finding["code"]).status)
        where = str(first["pointer"]).lstrip("/").replace("/", ".")
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        code = first["code"] if first["code"] in PROBLEMS else "invalid_input"
        return cls(code, f"{where} {first['detail']}{more}".strip(), findings)


def respond(problem: Problem, request_id: str) -> Response:
    """The problem as `application/problem+json`."""
    kind = PROBLEMS[problem.code]
    body = {
        "type": f"urn:llmgine:problem:{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "code": problem.code,
        "detail": shortened(problem.detail),
        "request_id": request_id,
        "errors": [_shown(finding) for finding in problem.findings[:MAX_FINDINGS]],
    }
    return Response(as_json(body), kind.status, headers_of(problem), MEDIA_TYPE)


def headers_of(problem: Problem) -> dict[str, str]:
    """The problem's own, and when trying again makes sense."""
    again = PROBLEMS[problem.code].retry_after_s
    headers = {} if again is None else {"Retry-After": str(again)}
    return {**headers, **problem.headers}


def not_found() -> Problem:
    """Also for what belongs to another tenant: nobody can tell them apart."""
    return Problem("not_found", "nothing here has this address")


def ledger_down() -> Problem:
    """Whether the last write took is unknown; an Idempotency-Key makes a retry safe."""
    return Problem("ledger_unavailable", "PostgreSQL does not answer, try again soon")


def _kind(code: str) -> Kind:
    return PROBLEMS.get(code, PROBLEMS["invalid_input"])


def _shown(finding: Finding) -> dict[str, Any]:
    return {
        name: shortened(value) if isinstance(value, str) else value
        for name, value in finding.items()
    }


def shortened(text: str) -> str:
    """Text that can be sent, of a length that people read."""
    text = clean_text(text)
    return text if len(text) <= _MAX_SENTENCE else text[:_MAX_SENTENCE] + "..."
