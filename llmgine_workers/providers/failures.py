"""One table from what services answer and how connections break to our codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson

from llmgine_workers import clock

MAX_RETRY_AFTER_S = 900.0
"""A service that asks for more is asked again after a quarter of an hour."""

# Words of the services that say more than their status does: OpenAI's `code` and
# `type`, Anthropic's `type` and `details.error_code`, Google's `status`.
_BY_WORD: dict[str, str] = {
    "insufficient_quota": "provider_quota",
    "billing_hard_limit_reached": "provider_quota",
    "billing_not_active": "provider_quota",
    "billing_error": "provider_quota",
    "contract_spend_limit_reached": "provider_quota",
    "enforced_spend_limit_reached": "provider_quota",
    "organization_on_hold": "provider_quota",
    "context_length_exceeded": "context_too_long",
    "request_too_large": "context_too_long",
    "content_filter": "content_refused",
    "content_policy_violation": "content_refused",
    "invalid_prompt": "content_refused",
    "overloaded_error": "provider_overloaded",
    "engine_overloaded": "provider_overloaded",
    "slow_down": "provider_overloaded",
    # Groq: the model did not manage to write JSON; another time it may.
    "json_validate_failed": "provider_bad_response",
    # Gemini says in the same breath that the quota is exceeded, for a minute's too.
    "RESOURCE_EXHAUSTED": "provider_rate_limited",
}

_BY_STATUS: dict[int, str] = {
    401: "provider_auth",
    402: "provider_quota",
    403: "provider_auth",
    408: "provider_unavailable",
    409: "provider_unavailable",
    413: "context_too_long",
    425: "provider_unavailable",
    429: "provider_rate_limited",
    498: "provider_overloaded",
    501: "provider_rejected",
    529: "provider_overloaded",
}

# Words that count only where there is no status: an error inside a stream.
_BY_KIND: dict[str, str] = {
    "rate_limit_error": "provider_rate_limited",
    "rate_limit_exceeded": "provider_rate_limited",
    "authentication_error": "provider_auth",
    "permission_error": "provider_auth",
    "invalid_request_error": "provider_rejected",
    "not_found_error": "provider_rejected",
}

# What only a sentence tells, and of which statuses that is so.
_BY_SENTENCE: dict[str, str] = {
    r"credit balance|spend(ing)? limit|exceeded your .*quota|(any|available) credits": (
        "provider_quota"
    ),
    r"context (length|window|limit)|prompt is too long|max_new_tokens.* must be <=|"
    r"maximum (context|prompt|model length|number of tokens)": "context_too_long",
    r"content (management )?policy|content filter|usage (policies|guidelines)|"
    r"input was flagged": "content_refused",
    r"(incorrect|invalid) api key|api key not valid": "provider_auth",
}
_SENTENCE_COUNTS = (400, 403, 422, 429, None)

SENTENCES: dict[str, str] = {
    "provider_rate_limited": "limits our rate",
    "provider_quota": "says that the account's credit or quota is used up",
    "provider_overloaded": "is overloaded",
    "provider_unavailable": "could not answer",
    "provider_auth": "does not accept the key",
    "context_too_long": "says that the prompt is too long for the model",
    "content_refused": "refused the content",
    "provider_rejected": "rejected the request",
    "provider_bad_response": "answered something that cannot be read",
    "provider_timeout": "was silent for too long",
}


@dataclass(frozen=True)
class Told:
    """What a service said about an error, whatever its shape."""

    words: tuple[str, ...] = ()
    sentence: str = ""
    status: int | None = None
    retry_after_s: float | None = None


def told(document: Any) -> Told:
    """Read an error body; one that has no known shape says nothing.

    It is under `error`, or the document itself (Mistral, vLLM); Gemini puts a list
    around it.
    """
    document = document[0] if isinstance(document, list) and document else document
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, str):
        return Told(sentence=error)
    if not isinstance(error, dict):
        return Told()
    details = error.get("details")
    inner = details.get("error_code") if isinstance(details, dict) else None
    code = error.get("code")
    words = (inner, code, error.get("type"), error.get("status"))
    return Told(
        words=tuple(word for word in words if isinstance(word, str)),
        sentence=_sentence(error.get("message") or error.get("detail")),
        status=code if isinstance(code, int) and 400 <= code < 600 else None,
        retry_after_s=_retry_delay(details),
    )


def _sentence(said: Any) -> str:
    """A text, or the findings of FastAPI, which Mistral and vLLM pass on."""
    found = said.get("detail") if isinstance(said, dict) else said
    if isinstance(found, list):
        found = "; ".join(
            f"{finding.get('loc')}: {finding.get('msg')}"
            for finding in found
            if isinstance(finding, dict)
        )
    return found if isinstance(found, str) else ""


def _retry_delay(details: Any) -> float | None:
    """Google's `RetryInfo`, like `34.07s`, for want of a header."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        seconds = _number(delay.removesuffix("s")) if isinstance(delay, str) else None
        if seconds is not None:
            return clamped(seconds)
    return None


def told_by(body: bytes) -> Told:
    """The same from an undecoded body; HTML and the like say nothing."""
    try:
        return told(orjson.loads(body))
    except orjson.JSONDecodeError:
        return Told()


def code_of(status: int | None, said: Told) -> str:
    """Our code for an error answer, or for an error inside a stream (no status)."""
    status = status or said.status
    for word in said.words:
        if word in _BY_WORD:
            return _BY_WORD[word]
    if status in _SENTENCE_COUNTS:
        for pattern, code in _BY_SENTENCE.items():
            if re.search(pattern, said.sentence, re.IGNORECASE):
                return code
    if status is None:
        known = (_BY_KIND[word] for word in said.words if word in _BY_KIND)
        return next(known, "provider_unavailable")
    return _BY_STATUS.get(
        status, "provider_unavailable" if status >= 500 else "provider_rejected"
    )


def broken(error: BaseException) -> tuple[str, str] | None:
    """Code and sentence of a connection that failed before an answer began.

    The SDKs wrap aiohttp's errors in coarser ones (openai makes a reset connection
    a connect time-out), so the chain of causes is asked. None: not a matter of the
    connection.
    """
    for cause in _causes(error):
        for kind, code, sentence in _BROKEN:
            if isinstance(cause, kind):
                return code, sentence
    return None


def timed_out(error: BaseException) -> bool:
    """Whether an answer stopped because the service was silent for too long."""
    return any(isinstance(cause, aiohttp.SocketTimeoutError) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


_BROKEN: tuple[tuple[type[BaseException], str, str], ...] = (
    (aiohttp.SocketTimeoutError, "provider_timeout", SENTENCES["provider_timeout"]),
    (aiohttp.ConnectionTimeoutError, "provider_unreachable", "did not accept in time"),
    (aiohttp.ClientConnectorDNSError, "provider_unreachable", "has no known address"),
    (aiohttp.ClientConnectorCertificateError, "provider_unreachable",
     "shows a certificate that is not valid"),
    (aiohttp.ClientConnectorError, "provider_unreachable", "cannot be connected to"),
    (aiohttp.InvalidURL, "provider_unreachable", "has no valid address"),
    (aiohttp.ClientConnectionError, "provider_unavailable",
     "closed the connection without an answer"),
    (aiohttp.ClientResponseError, "provider_bad_response", "does not speak HTTP"),
)  # fmt: skip


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or a date).

    Between 0 and `MAX_RETRY_AFTER_S`; None if the service did not say.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return clamped(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return clamped(seconds)
    try:
        moment = parsedate_to_datetime(text or "")
        return clamped((moment - clock.now()).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if number != number else number


def clamped(seconds: float) -> float:
    """Between 0 and `MAX_RETRY_AFTER_S`."""
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
