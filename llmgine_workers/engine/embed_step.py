"""The call of an `embed` step: texts in, a vector for each of them out."""

from __future__ import annotations

from llmgine_workers.engine import billing
from llmgine_workers.engine.request import headers_of
from llmgine_workers.engine.vectors import encoded
from llmgine_workers.engine.visit import Answer, Visit
from llmgine_workers.llm import EmbedRequest, ModelRef


async def call_embedding(visit: Visit) -> Answer:
    """Make the call; nothing of it is streamed."""
    asked, model = visit.request, ModelRef.parse(visit.step.model or "")
    answer = await visit.rt.providers[model.provider].embed(
        EmbedRequest(model.model, asked["input"], asked.get("dimensions")),
        timeout_s=visit.call_seconds_left,
        headers=headers_of(visit),
    )
    visit.answered = answer
    visit.billed = billing.of_answer(visit, answer)
    return Answer(encoded(answer.vectors, asked["encoding"]), model=str(model))
