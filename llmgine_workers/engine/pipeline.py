"""The gates around a call, as data: read them top to bottom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from llmgine_workers.engine import gates
from llmgine_workers.engine.embed_step import call_embedding
from llmgine_workers.engine.llm_step import call_model
from llmgine_workers.engine.tool_step import call_tool
from llmgine_workers.engine.visit import Answer, Visit

Next: TypeAlias = Callable[[Visit], Awaitable[Answer]]
Gate: TypeAlias = Callable[[Visit, Next], Awaitable[Answer]]

_OF_MODELS = (
    gates.open_pool,
    gates.retry_in_place,
    gates.admission,
    gates.attempt,
    gates.meter,
)

GATES: dict[str, tuple[tuple[Gate, ...], Next]] = {
    "llm": (_OF_MODELS, call_model),
    "embed": (_OF_MODELS, call_embedding),
    "tool": (
        (
            gates.open_pool,
            gates.attempt,
        ),
        call_tool,
    ),
}  # fmt: skip


async def through(visit: Visit) -> Answer:
    """Send a visit through the gates of its kind, to the call and back."""
    outer, call = GATES[visit.step.kind]
    return await _behind(outer, call)(visit)


def _behind(outer: Sequence[Gate], call: Next) -> Next:
    for gate in reversed(outer):
        call = _bound(gate, call)
    return call


def _bound(gate: Gate, inner: Next) -> Next:
    async def passed(visit: Visit) -> Answer:
        return await gate(visit, inner)

    return passed
