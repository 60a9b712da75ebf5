"""What a call costs: bounded before, as reported after, estimated where it was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chains.chain import CALLING
from llmgine_workers.engine.bounds import bounds_of, texts_of
from llmgine_workers.engine.clean import clean_text
from llmgine_workers.ledger.records import Billed
from llmgine_workers.llm import CallFailed, Embedded, LlmAnswer, Usage
from llmgine_workers.prices import estimate_tokens, estimate_tokens_of_bytes

if TYPE_CHECKING:
    from llmgine_workers.engine.visit import Visit
    from llmgine_workers.errors import StepFailed

_MAY_BE_BILLED = {
    "step_timeout",
    "provider_timeout",
    "stream_cut",
    "provider_bad_response",
}
"""Codes of calls that a provider took on and that ended without an account of them."""


def upper_bound(visit: Visit) -> int | None:
    """Micro-dollars this call can cost at the most; None if it has no price."""
    if visit.step.kind not in CALLING:
        return 0
    bounds = bounds_of(visit.request)
    return visit.rt.prices.upper_bound(
        visit.step.model or "", bounds.input_tokens, bounds.output_tokens
    )


def account(visit: Visit, failed: StepFailed | None = None) -> Usage | None:
    """The tokens of a call that is over; None if nobody knows them."""
    if visit.answered:
        return visit.answered.usage
    if failed is None or failed.failure.code in _MAY_BE_BILLED:
        return None
    return visit.billed.usage


def of_answer(visit: Visit, answer: LlmAnswer | Embedded) -> Billed:
    """As the provider reported it."""
    return _billed(visit, answer.usage, answer.status, answer.request_id)


def of_failure(visit: Visit, failed: StepFailed) -> Billed:
    """Nothing where nothing was generated; else what was read, or an estimate."""
    failure = failed.failure
    if visit.answered:
        return of_answer(visit, visit.answered)
    usage = failed.usage if isinstance(failed, CallFailed) else None
    if usage is None and failure.code in _MAY_BE_BILLED:
        usage = _estimate(visit)
    return _billed(visit, usage or Usage(), failure.status, failure.request_id)


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
        request_id=request_id and clean_text(request_id),
        first_token_at=visit.first_token_at,
    )


def _estimate(visit: Visit) -> Usage:
    return Usage(
        calls=1,
        input_tokens=estimate_tokens(texts_of(visit.request)),
        output_tokens=estimate_tokens_of_bytes(visit.received_bytes),
    )
