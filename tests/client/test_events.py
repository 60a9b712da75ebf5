from __future__ import annotations

import dataclasses
from typing import Any

import httpx2
import pytest

from gateway import shapes as gateway_shapes
from llmgine_workers.client import (
    BadAnswer,
    Event,
    Job,
    JobFinished,
    Refused,
    StepDelta,
    Unavailable,
    shapes,
)
from llmgine_workers.client.events import KINDS, event_of
from llmgine_workers.client.following import Following
from llmgine_workers.events import facts
from tests.client.talking import JOB, URL, lost, problem

AT = "2026-11-20T12:00:01.250Z"
STREAM = httpx2.Response(200, headers={"content-type": "text/event-stream; charset=x"})


def event(kind: str, seq: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": kind, "seq": seq, "job": JOB["id"], "at": AT, **more}


FINISHED = event(
    "job.finished", 9, state="succeeded", output="x", error=None, usage=None,
    cost_usd=0.1, dead_letter=None,
)  # fmt: skip


def frame(document: dict[str, Any]) -> httpx2.ServerSentEvent:
    return httpx2.ServerSentEvent(data=httpx2.Response(200, json=document).text)


def following(after: int = 0, retry_s: float = 30) -> Following:
    return Following(URL, "x", after, retry_s)


def test_every_public_fact_has_a_type_with_its_fields() -> None:
    every = facts.JobFact.__subclasses__() + facts.StepFact.__subclasses__()
    told = {fact.type: fact for fact in every if fact is not facts.StepFact}
    assert set(KINDS) == set(told)
    for kind, fact in told.items():
        named = {entry.name for entry in dataclasses.fields(fact)}
        fields = named - set(facts.INTERNAL) | {"type", "seq"}
        assert set(KINDS[kind].model_fields) == fields, kind


@pytest.mark.parametrize(
    "name",
    [
        "Job",
        "Step",
        "Attempt",
        "Progress",
        "Usage",
        "Options",
        "Waiting",
        "Batch",
        "Explanation",
    ],
)
def test_a_shape_has_what_the_gateway_says_it_answers(name: str) -> None:
    ours, theirs = getattr(shapes, name), getattr(gateway_shapes, name)
    assert set(ours.model_fields) == set(theirs.model_fields)


def test_a_value_gives_back_the_document_it_was_read_from() -> None:
    newer = {**JOB, "added_later": [1, {"a": None}]}
    assert Job.model_validate(newer).document() == newer


def test_a_type_that_is_not_known_yet_is_an_event_all_the_same() -> None:
    told = event_of(event("step.dreamt", dream="sheep"))
    assert type(told) is Event
    assert told.document()["dream"] == "sheep"


@pytest.mark.parametrize(
    "document", [[], "x", event("step.delta"), {"type": "job.queued"}]
)
def test_what_is_no_event_is_no_answer(document: Any) -> None:
    with pytest.raises(BadAnswer):
        event_of(document)


def test_a_reader_goes_on_behind_the_last_event_it_saw() -> None:
    reader = following()
    call = reader.next_call()
    assert call is not None
    assert (call.path, call.headers, call.pause_s) == ("/v1/jobs/x/events", {}, 0)
    with reader.connection():
        assert reader.opened(STREAM)
        told = reader.event(frame(event("step.delta", 7, step="a", attempt=1, text="P")))
        assert isinstance(told, StepDelta)
        raise lost()
    call = reader.next_call()
    assert call is not None
    assert call.headers == {"Last-Event-ID": "7"}
    assert 0 < call.pause_s <= 0.1


def test_a_reader_may_begin_in_the_middle() -> None:
    call = following(after=4).next_call()
    assert call is not None
    assert call.headers == {"Last-Event-ID": "4"}


def test_a_stream_closed_behind_the_jobs_last_event_is_at_its_end() -> None:
    reader = following()
    with reader.connection():
        reader.opened(STREAM)
        assert isinstance(reader.event(frame(FINISHED)), JobFinished)
    assert reader.next_call() is None


def test_a_stream_closed_before_is_taken_up_again() -> None:
    reader = following()
    with reader.connection():
        reader.opened(STREAM)
        reader.event(frame(FINISHED))
        reader.event(frame(event("job.replayed", 10, step="a", replay="r")))
    assert reader.next_call() is not None


def test_a_stream_broken_behind_the_jobs_last_event_is_asked_for_more() -> None:
    reader = following()
    with reader.connection():
        reader.opened(STREAM)
        reader.event(frame(FINISHED))
        raise lost()
    call = reader.next_call()
    assert call is not None
    assert call.headers == {"Last-Event-ID": "9"}
    with reader.connection():
        assert not reader.opened(httpx2.Response(204))
    assert reader.next_call() is None


def test_a_gateway_that_is_away_is_borne_with_until_it_has_been_too_long() -> None:
    reader = following(retry_s=0.5)
    pauses: list[float] = []

    def try_in_vain() -> None:
        for said in [problem(503, "ledger_unavailable")] * 20:
            with reader.connection():
                reader.opened(said)
            call = reader.next_call()
            assert call is not None
            pauses.append(call.pause_s)

    with pytest.raises(Unavailable):
        try_in_vain()
    assert pauses
    assert pauses == sorted(pauses)


def test_a_refusal_and_a_foreign_answer_end_the_reading() -> None:
    with pytest.raises(Refused), following().connection():
        following().opened(problem(404, "not_found"))
    with pytest.raises(BadAnswer, match="text/event-stream"):
        following().opened(httpx2.Response(200, text="<html>"))
    with pytest.raises(BadAnswer):
        following().event(httpx2.ServerSentEvent(data="{"))
