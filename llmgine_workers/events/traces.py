"""An OpenTelemetry span per attempt, under the GenAI names, without any content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)

from llmgine_workers.events.facts import AttemptFinished, Fact
from llmgine_workers.llm import Usage

# The GenAI conventions are still in development, so their names stand here and not in
# an import that moves (semantic-conventions-genai, November 2026).
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"

_OPERATIONS = {"llm": "chat", "embed": "embeddings", "tool": "execute_tool"}

Attributes = dict[str, str | int | float]


class Traces:
    """The handler that makes spans of finished attempts.

    The trace's id is the job's: every attempt of a job, in whichever process, is in
    one trace, and the trace can be found from the job.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("llmgine_workers")

    def wants(self, kind: type[Fact]) -> bool:
        """Finished attempts."""
        return issubclass(kind, AttemptFinished)

    async def handle(self, facts: Sequence[Fact]) -> None:
        """Record one span for each."""
        for fact in facts:
            if isinstance(fact, AttemptFinished):
                self._record(fact)

    async def close(self) -> None:
        """The spans are the tracer provider's to flush."""

    def _record(self, fact: AttemptFinished) -> None:
        model = fact.model
        span = self._tracer.start_span(
            f"chat {model.partition('/')[2]}" if model else f"tool {fact.step}",
            context=_trace_of(fact.job),
            kind=SpanKind.CLIENT if model else SpanKind.INTERNAL,
            attributes=_attributes(fact),
            start_time=_nanoseconds(fact.started_at),
        )
        if fact.error is not None:
            span.set_status(Status(StatusCode.ERROR, fact.error.code))
        span.end(end_time=_nanoseconds(fact.at))


def _trace_of(job: UUID) -> Context:
    job_span = SpanContext(
        trace_id=job.int,
        span_id=job.int & (1 << 64) - 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(NonRecordingSpan(job_span))


def _attributes(fact: AttemptFinished) -> Attributes:
    found: Attributes = {
        "llmgine.job": str(fact.job),
        "llmgine.step": fact.step,
        "llmgine.attempt": fact.attempt,
        "llmgine.state": fact.state,
        OPERATION: _OPERATIONS[fact.kind],
    }
    if fact.model:
        found[PROVIDER], _, found[REQUEST_MODEL] = fact.model.partition("/")
    if fact.answered_by:
        found[RESPONSE_MODEL] = fact.answered_by
    if fact.first_token_at:
        found[FIRST_CHUNK] = (fact.first_token_at - fact.started_at).total_seconds()
    if fact.error:
        found["error.type"] = fact.error.code
    return found | _tokens(fact.usage)


def _tokens(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
