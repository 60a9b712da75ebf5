"""The call of an `llm` step: a request in, a validated output and its text out."""

from __future__ import annotations

from typing import Any

import orjson

from chains import schema_findings
from llmgine_workers import clock
from llmgine_workers.engine import billing
from llmgine_workers.engine.visit import Answer, Visit
from llmgine_workers.errors import Failure, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.llm import Delta, LlmAnswer, LlmRequest, Message, ModelRef


async def call_model(visit: Visit) -> Answer:
    """Make the call; deltas are told while they arrive."""
    model = ModelRef.parse(visit.step.model or "")
    answer = await visit.rt.providers[model.provider].call(
        request_of(visit, model),
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


def request_of(visit: Visit, model: ModelRef) -> LlmRequest:
    """The rendered request of the ledger in the vocabulary of providers."""
    asked = visit.request
    known = {"messages", "system", "max_tokens", "schema", "models"}
    budgeted = billing.BOUND_MAX_TOKENS if visit.step.has_budget else None
    return LlmRequest(
        model=model.model,
        messages=tuple(Message(m["role"], m["content"]) for m in asked["messages"]),
        system=asked.get("system"),
        max_tokens=visit.max_tokens or budgeted,
        schema=asked.get("schema"),
        parameters={key: value for key, value in asked.items() if key not in known},
    )


def headers_of(visit: Visit) -> dict[str, str]:
    """What tells one call from another in the provider's own log."""
    assert visit.claim is not None  # noqa: S101 - the attempt gate comes before
    key = visit.step.key
    return {
        "x-llmgine-job": str(key.job),
        "x-llmgine-step": key.path,
        "x-llmgine-attempt": str(visit.claim.n),
        "x-llmgine-fence": str(visit.claim.fence),
    }


def _teller(visit: Visit) -> Any:
    claim = visit.claim
    assert claim is not None  # noqa: S101 - the attempt gate comes before

    async def tell(delta: Delta) -> None:
        if visit.first_token_at is None:
            visit.first_token_at = clock.now()
        visit.received += len(delta.text or delta.reasoning or "")
        await visit.rt.events.emit(
            facts.StepDelta(
                claim.key.job,
                claim.key.path,
                attempt=claim.n,
                text=delta.text,
                reasoning=delta.reasoning,
                tool_call=delta.tool_call,
            )  # fmt: skip
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
