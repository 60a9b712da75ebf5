"""A span per attempt, found by the job's id, under the GenAI names, without content."""

from __future__ import annotations

from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.events.facts import AttemptFinished, AttemptStarted
from llmgine_workers.events.traces import Traces
from llmgine_workers.llm import Usage

JOB = clock.uuid7()
STARTED = clock.now()


def attempt(**more: object) -> AttemptFinished:
    return AttemptFinished(
        clock.uuid7(),
        JOB,
        "draft",
        1,
        more.pop("model", "openai/gpt-5-mini"),  # type: ignore[arg-type]
        more.pop("state", "succeeded"),  # type: ignore[arg-type]
        STARTED,
        at=STARTED + timedelta(seconds=2),
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(spans: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Traces(provider)


def test_only_finished_attempts_make_spans(traces: Traces) -> None:
    assert traces.wants(AttemptFinished)
    assert not traces.wants(AttemptStarted)


async def test_an_attempt_is_a_span_in_the_jobs_trace(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    first_token = STARTED + timedelta(seconds=0.5)
    await traces.handle(
        [
            attempt(
                usage=Usage(1, 5, 1, 7, 2),
                answered_by="gpt-5-mini-2026",
                first_token_at=first_token,
            ),
            attempt(),
        ]
    )
    first, second = spans.get_finished_spans()
    assert first.context.trace_id == second.context.trace_id == JOB.int
    assert first.name == "chat gpt-5-mini"
    assert first.end_time is not None
    assert first.start_time is not None
    assert first.end_time - first.start_time == 2_000_000_000
    found = dict(first.attributes or {})
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.request.model"] == "gpt-5-mini"
    assert found["gen_ai.response.model"] == "gpt-5-mini-2026"
    assert found["gen_ai.usage.input_tokens"] == 5
    assert found["gen_ai.usage.cache_read.input_tokens"] == 1
    assert found["gen_ai.response.time_to_first_chunk"] == 0.5


async def test_a_failed_attempt_is_an_error_without_the_providers_words(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    said = "invalid prompt: the patient's name"
    failure = Failure("provider_rejected", said)
    await traces.handle([attempt(state="failed", error=failure)])
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "provider_rejected"
    assert said not in span.to_json()


async def test_a_tools_attempt_is_named_after_its_step(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    await traces.handle([attempt(model=None, kind="tool")])
    (span,) = spans.get_finished_spans()
    assert span.name == "tool draft"
    assert (span.attributes or {})["gen_ai.operation.name"] == "execute_tool"


async def test_a_call_for_vectors_is_named_so(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    await traces.handle([attempt(kind="embed")])
    (span,) = spans.get_finished_spans()
    assert (span.attributes or {})["gen_ai.operation.name"] == "embeddings"
