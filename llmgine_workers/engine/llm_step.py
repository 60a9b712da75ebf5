"""The call of an `llm` step: a request in, a validated output and its text out."""

from __future__ import annotations

from typing import Any

import orjson

from chains import schema_findings
from llmgine_workers import clock
from llmgine_workers.engine import billing
from llmgine_workers.engine.request import headers_of, request_of
from llmgine_workers.engine.visit import Answer, Visit
from llmgine_workers.errors import Failure, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.llm import Delta, LlmAnswer, ModelRef, OnDelta


async def call_model(visit: Visit) -> Answer:
    """Make the call; deltas are told while they arrive."""
    model = ModelRef.parse(visit.step.model or "")
    answer = await visit.rt.providers[model.provider].call(
        request_of(visit),
        timeout_s=visit.call_seconds_left,
        headers=headers_of(visit),
        on_delta=_teller(visit) if visit.step.stream else None,
    )
    visit.answered = answer
    visit.billed = billing.of_answer(visit, answer)
    return Answer(
        output=_output(visit, answer),
        text=answer.text,
        model=str(model),
        finish_reason=answer.finish_reason,
    )


def _teller(visit: Visit) -> OnDelta:
    claim = visit.held

    async def tell(delta: Delta) -> None:
        if visit.first_token_at is None:
            visit.first_token_at = clock.now()
        visit.received_bytes += len((delta.text or delta.reasoning or "").encode())
        await visit.rt.events.emit(
            facts.StepDelta(
                claim.key.job,
                claim.key.path,
                attempt=claim.n,
                text=delta.text,
                reasoning=delta.reasoning,
                tool_call=delta.tool_call,
                fence=claim.fence,
            )
        )

    return tell


def _output(visit: Visit, answer: LlmAnswer) -> Any:
    schema = visit.request.get("schema")
    if not schema:
        return answer.text
    try:
        output = orjson.loads(answer.text)
    except orjson.JSONDecodeError as error:
        raise _invalid(visit, answer, f"not JSON: {error}") from None
    findings = schema_findings(schema, output)
    if findings:
        raise _invalid(visit, answer, "; ".join(f.detail for f in findings[:3]))
    return output


def _invalid(visit: Visit, answer: LlmAnswer, why: str) -> StepFailed:
    return StepFailed(
        Failure(
            "output_invalid",
            f"the answer does not fit the step's schema: {why}",
            model=visit.step.model,
            status=answer.status,
            request_id=answer.request_id,
        )
    )
