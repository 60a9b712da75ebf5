"""The transcript of a job: tokens live, one step speaking at a time."""

from __future__ import annotations

from typing import Any

from llmgine_workers.cli.live import Transcript


def told(*events: dict[str, Any]) -> str:
    transcript = Transcript()
    return "".join(transcript.add({"seq": n, **e}) for n, e in enumerate(events, 1))


def delta(step: str, text: str) -> dict[str, Any]:
    return {"type": "step.delta", "step": step, "attempt": 1, "text": text}


def finished(step: str, **more: Any) -> dict[str, Any]:
    return {"type": "step.finished", "step": step, "state": "succeeded", **more}


def test_tokens_appear_as_they_come_and_the_step_ends_on_its_own_line() -> None:
    usage = {"input_tokens": 12, "output_tokens": 3}
    text = told(
        {"type": "job.queued", "job": "J", "chain": {"name": "summarize"}},
        {"type": "step.started", "step": "draft", "attempt": 1, "model": "openai/x"},
        delta("draft", "Prices "),
        delta("draft", "rose"),
        finished("draft", usage=usage, cost_usd=0.000211),
    )
    assert text.splitlines() == [
        "job J · summarize",
        "▸ draft · openai/x",
        "Prices rose",
        "✓ draft succeeded · 12 + 3 tokens · $0.000211",
    ]


def test_parallel_steps_never_mix_their_words() -> None:
    text = told(
        delta("pro", "for "),
        delta("con", "against "),
        delta("pro", "it"),
        delta("con", "it"),
        finished("pro"),
        finished("con"),
    )
    assert "for it\n" in text
    assert "con:\nagainst it\n" in text


def test_the_second_speaker_goes_live_when_the_first_is_done() -> None:
    transcript = Transcript()
    for event in (delta("pro", "a"), delta("con", "b"), finished("pro")):
        transcript.add(event)
    live = transcript.add(delta("con", "c"))
    assert live.endswith("bc")


def test_a_restart_takes_back_what_was_kept() -> None:
    text = told(
        delta("pro", "x"),
        delta("con", "wrong"),
        {"type": "step.restarted", "step": "con", "attempt": 2, "reason": "stream_cut"},
        delta("con", "right"),
        finished("pro"),
        finished("con"),
    )
    assert "wrong" not in text
    assert "right" in text
    assert "con starts again: stream_cut" in text


def test_the_end_tells_the_error_and_the_letter() -> None:
    error = {"code": "provider_rejected", "message": "no"}
    text = told(
        {"type": "job.finished", "state": "failed", "error": error, "dead_letter": "L"}
    )
    assert "failed" in text
    assert "provider_rejected: no" in text
    assert "dead letter L" in text


def test_a_waiting_step_says_why() -> None:
    waiting = {"reason": "limit", "detail": "openai/* 600 requests/1m is used up"}
    text = told({"type": "step.waiting", "step": "draft", "waiting": waiting})
    assert "draft waits: openai/* 600 requests/1m is used up" in text


def test_a_snapshot_forgets_half_sentences() -> None:
    snapshot = {"job": {"state": "running"}, "steps": []}
    text = told(
        delta("a", "x"),
        delta("b", "half"),
        {"type": "stream.snapshot", "snapshot": snapshot},
        finished("b"),
    )
    assert "half" not in text
    assert "running" in text


def test_unknown_events_are_passed_over() -> None:
    assert told({"type": "something.new"}) == ""
