"""Events in, chunks out: what was sent is never contradicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
import pytest

from gateway.front.chat_answer import DONE, Chunks, created, finish_reason

JOB = UUID("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11")
USAGE = {
    "calls": 1, "input_tokens": 5, "cached_input_tokens": 2, "output_tokens": 3,
    "reasoning_tokens": 1,
}  # fmt: skip


def step(text: str, reason: str = "stop") -> dict[str, Any]:
    return {"text": text, "model": "a/b", "finish_reason": reason, "usage": USAGE}


def tell(chunks: Chunks, kind: str, **data: Any) -> bytes:
    return chunks.event(kind, orjson.dumps(data))


def delta(chunks: Chunks, text: str, attempt: int = 1) -> bytes:
    return tell(chunks, "step.delta", text=text, attempt=attempt)


def read(frames: bytes) -> list[Any]:
    found = [frame.removeprefix(b"data: ") for frame in frames.split(b"\n\n") if frame]
    return [orjson.loads(one) for one in found if one != b"[DONE]"]


def text_of(frames: bytes) -> str:
    choices = [c for chunk in read(frames) for c in chunk["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.fixture
def chunks() -> Chunks:
    return Chunks(JOB, "fast", with_usage=False)


def test_deltas_become_chunks_and_the_end_adds_what_is_missing(chunks: Chunks) -> None:
    frames = tell(chunks, "step.started", model="a/b", attempt=1)
    frames += delta(chunks, "One ") + delta(chunks, "two ")
    frames += chunks.end(step("One two three"))
    assert text_of(frames) == "One two three"
    assert frames.endswith(DONE)
    assert chunks.is_over
    assert {chunk["model"] for chunk in read(frames)} == {"a/b"}


def test_without_any_event_the_end_is_the_whole_answer(chunks: Chunks) -> None:
    frames = chunks.end(step("All of it", "length"))
    first, last = read(frames)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "All of it"}
    assert last["choices"][0]["finish_reason"] == "length"


def test_an_empty_answer_still_has_a_role(chunks: Chunks) -> None:
    first, _ = read(chunks.end(step("")))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_after_a_gap_nothing_is_sent_that_may_not_follow(chunks: Chunks) -> None:
    frames = delta(chunks, "One ")
    chunks.gap()
    assert delta(chunks, "three") == b""
    assert text_of(frames + chunks.end(step("One two three"))) == "One two three"


@pytest.mark.parametrize("how", ["restarted", "attempt", "end"])
def test_an_answer_that_begins_anew_after_its_first_piece_is_an_error(
    chunks: Chunks, how: str
) -> None:
    delta(chunks, "One ")
    told: Mapping[str, bytes] = {
        "restarted": b"" if how != "restarted" else tell(chunks, "step.restarted"),
        "attempt": b"" if how != "attempt" else delta(chunks, "Uno", attempt=2),
        "end": b"" if how != "end" else chunks.end(step("Uno dos")),
    }
    (error,) = read(told[how])
    assert error["error"]["code"] == "stream_restarted"
    assert str(JOB) in error["error"]["message"]
    assert chunks.is_over
    assert delta(chunks, "more") == b""


def test_an_answer_that_begins_anew_before_its_first_piece_is_no_error(
    chunks: Chunks,
) -> None:
    assert tell(chunks, "step.restarted") == b""
    assert text_of(delta(chunks, "x", attempt=2)) == "x"


def test_reasoning_and_other_events_are_not_told(chunks: Chunks) -> None:
    assert tell(chunks, "step.delta", reasoning="hm", attempt=1) == b""
    assert tell(chunks, "job.queued") == tell(chunks, "step.waiting") == b""


def test_the_usage_comes_last_and_only_if_it_was_asked_for(chunks: Chunks) -> None:
    assert all("usage" not in chunk for chunk in read(chunks.end(step("x"))))
    counting = Chunks(JOB, "fast", with_usage=True)
    *others, last = read(delta(counting, "x") + counting.end(step("x")))
    assert {chunk["usage"] for chunk in others} == {None}
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_word_that_is_not_theirs_is_a_stop() -> None:
    assert finish_reason(step("", "stop_sequence")) == "stop"
    assert finish_reason(step("", "tool_calls")) == "tool_calls"


def test_the_time_is_in_the_jobs_id() -> None:
    assert created(JOB) == 0x0193C1F27D1E // 1000
