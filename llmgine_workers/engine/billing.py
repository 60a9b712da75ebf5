"""What a call costs: bounded before, as reported after, estimated where it was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgine_workers.engine.request import BOUND_MAX_TOKENS, request_of
from llmgine_workers.ledger.records import Billed
from llmgine_workers.llm import LlmAnswer, Usage
from llmgine_workers.prices import estimate_tokens, estimate_tokens_of_bytes

if TYPE_CHECKING:
    from llmgine_workers.engine.visit import Visit
    from llmgine_workers.errors import StepFailed

_NOT_GENERATED = {
    "provider_unreachable",
    "provider_unavailable",
    "provider_overloaded",
    "provider_rate_limited",
    "provider_auth",
    "provider_quota",
    "provider_rejected",
    "context_too_long",
}
"""Codes of answers that no provider bills: nothing was generated."""


def upper_bound(visit: Visit) -> int | None:
    """Micro-dollars this call can cost at the most; None if it has no price."""
    if visit.step.kind != "llm":
        return 0
    max_tokens = request_of(visit).max_tokens or BOUND_MAX_TOKENS
    return visit.rt.prices.upper_bound(
        visit.step.model or "", _input_estimate(visit), max_tokens
    )


def of_answer(visit: Visit, answer: LlmAnswer) -> Billed:
    """As the provider reported it."""
    return _billed(visit, answer.usage, answer.status, answer.request_id)


def of_failure(visit: Visit, failed: StepFailed) -> Billed:
    """Nothing where nothing was generated; else what was read, or an estimate."""
    failure = failed.failure
    if visit.answered:
        return of_answer(visit, visit.answered)
    if failure.code in _NOT_GENERATED or failed.before_first_byte:
        return Billed(status=failure.status, request_id=failure.request_id)
    return _billed(visit, _estimate(visit), failure.status, failure.request_id)


def of_cut_call(visit: Visit) -> Billed:
    """A call we closed ourselves: the prompt, and what had arrived."""
    if visit.answered:
        return of_answer(visit, visit.answered)
    return _billed(visit, _estimate(visit), None, None)


def _billed(
    visit: Visit, usage: Usage, status: int | None, request_id: str | None
) -> Billed:
    prices, model = visit.rt.prices, visit.step.model or ""
    return Billed(
        usage=usage,
        cost=prices.cost(model, usage),
        price_version=prices.version,
        status=status,
        request_id=request_id,
        first_token_at=visit.first_token_at,
    )


def _estimate(visit: Visit) -> Usage:
    return Usage(
        calls=1,
        input_tokens=_input_estimate(visit),
        output_tokens=estimate_tokens_of_bytes(visit.received_bytes),
    )


def _input_estimate(visit: Visit) -> int:
    request = request_of(visit)
    spoken = [message.content for message in request.messages]
    return estimate_tokens([*spoken, request.system or ""])
