"""What a stored request can use at the most, before anybody has counted a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmgine_workers.engine.clean import as_json
from llmgine_workers.ledger.records import StepKey
from llmgine_workers.resilience.rules import Demand

BOUND_MAX_TOKENS = 4096
"""Sent as max_tokens where a budget or a limit needs a bound and the chain names none."""

_OVERHEAD_TOKENS = 16
"""What roles and separators of a message may add."""


@dataclass(frozen=True)
class Bounds:
    """Tokens that a call cannot exceed."""

    input_tokens: int
    output_tokens: int


def bounds_of(request: Mapping[str, Any]) -> Bounds:
    """The bounds of a request as the ledger keeps it.

    No tokenizer makes more tokens of a text than it has bytes.
    """
    sizes = (len(text.encode()) + _OVERHEAD_TOKENS for text in texts_of(request))
    written = 0 if "input" in request else request.get("max_tokens") or BOUND_MAX_TOKENS
    return Bounds(sum(sizes), written)


def texts_of(request: Mapping[str, Any]) -> Iterable[str]:
    """All that a model reads of it: texts to embed, or a conversation."""
    if "input" in request:
        yield from request["input"]
        return
    schema = request.get("schema")
    yield from (message["content"] for message in request["messages"])
    yield request.get("system") or ""
    yield as_json(schema) if schema else ""


def demand_of(
    model: str, tenant: str, request: Mapping[str, Any], key: StepKey
) -> Demand:
    """What the step's call asks of the limits."""
    bounds = bounds_of(request)
    return Demand(
        model=model,
        tenant=tenant,
        input_tokens=bounds.input_tokens,
        output_tokens=bounds.output_tokens,
        step=f"{key.job}:{key.path}",  # ids ascend with time: the older comes first
    )
