"""A response becomes a value, or the exception that says what it means."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

from llmgine_workers.client.errors import (
    BadAnswer,
    ClientError,
    Refused,
    Unauthenticated,
    Unavailable,
)
from llmgine_workers.client.shapes import Finding, Shape

Read = TypeVar("Read", bound=Shape)


def read(shape: type[Read], document: Any) -> Read:
    """The value of a JSON document; BadAnswer if it does not fit."""
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        what = f"{error.error_count()} fields do not fit {shape.__name__}"
        raise BadAnswer(f"the answer is not a gateway's: {what}") from error


def document_of(response: httpx2.Response) -> Any:
    """The JSON of a success. The body must have been read."""
    try:
        return response.json()
    except ValueError as error:
        kind = response.headers.get("content-type")
        raise BadAnswer(f"the answer is not JSON but {kind!r}") from error


def refuse_unless_success(response: httpx2.Response) -> None:
    """Raise what anything but a 2xx means. The body must have been read."""
    if not response.is_success:
        raise _error(response)


def unreachable(url: str, error: httpx2.RequestError) -> Unavailable:
    """What a lost connection means to the caller."""
    reason = str(error) or type(error).__name__
    trouble = Unavailable(f"no answer from {url}: {reason}")
    trouble.__cause__ = error
    return trouble


def _error(response: httpx2.Response) -> ClientError:
    status, problem = response.status_code, _problem(response)
    code = str(problem.get("code") or f"http_{status}")
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    request_id = problem.get("request_id")
    if status < 400:
        return BadAnswer(f"{status} {response.headers.get('location', '')}".strip())
    if status == 429 or status >= 500:
        return Unavailable(
            f"{status} {code}: {detail}",
            status=status,
            code=code,
            retry_after_s=_retry_after_s(response),
            request_id=request_id,
        )
    kind = Unauthenticated if status == 401 else Refused
    findings = [read(Finding, found) for found in problem.get("errors") or ()]
    return kind(status, code, detail, findings, request_id)


def _problem(response: httpx2.Response) -> dict[str, Any]:
    """Also when a proxy answered, in its own words: an empty one."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds, written as such or as a date (RFC 9110, 10.2.3)."""
    written = response.headers.get("retry-after", "")
    if written.isdecimal():
        return float(written)
    try:
        at = parsedate_to_datetime(written)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())
