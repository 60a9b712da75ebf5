"""A step's stored request, as the provider's adapter takes it."""

from __future__ import annotations

from llmgine_workers.engine.bounds import BOUND_MAX_TOKENS
from llmgine_workers.engine.visit import Visit
from llmgine_workers.llm import LlmRequest, Message, ModelRef

_NOT_PARAMETERS = {"messages", "system", "max_tokens", "schema", "models"}


def request_of(visit: Visit) -> LlmRequest:
    """The rendered request of the ledger in the vocabulary of providers."""
    asked = visit.request
    max_tokens = asked.get("max_tokens")
    if max_tokens is None and _needs_bound(visit):
        max_tokens = BOUND_MAX_TOKENS
    return LlmRequest(
        model=ModelRef.parse(visit.step.model or "").model,
        messages=tuple(Message(m["role"], m["content"]) for m in asked["messages"]),
        system=asked.get("system"),
        max_tokens=max_tokens,
        schema=asked.get("schema"),
        parameters={k: v for k, v in asked.items() if k not in _NOT_PARAMETERS},
    )


def _needs_bound(visit: Visit) -> bool:
    rules = visit.rt.admission.rules
    return visit.is_budgeted or rules.bounds_output(visit.step.model or "")


def headers_of(visit: Visit) -> dict[str, str]:
    """What tells one call from another in the provider's own log."""
    claim = visit.held
    return {
        "x-llmgine-job": str(claim.key.job),
        "x-llmgine-step": claim.key.path,
        "x-llmgine-attempt": str(claim.n),
        "x-llmgine-fence": str(claim.fence),
    }
