from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from llmgine_workers.client import Event, Text
from llmgine_workers.client.events import event_of
from tests.client.talking import JOB, RUNNING

STEP: dict[str, Any] = {
    "kind": "llm", "pool": "openai", "state": "succeeded", "waiting": None, "fence": 1,
    "crashes": 0, "error": None, "output": None, "finish_reason": "stop",
    "model": "openai/m", "why": None, "usage": {}, "cost_usd": None, "simulated": False,
}  # fmt: skip


def told(kind: str, step: str = "draft", **more: Any) -> Event:
    at = "2026-11-20T12:00:01.250Z"
    named = {"step": step} if kind.startswith("step.") else {}
    return event_of({"type": kind, "seq": 1, "job": JOB["id"], "at": at, **named, **more})


def delta(text: str | None, step: str = "draft", **more: Any) -> Event:
    return told("step.delta", step, attempt=1, text=text, **more)


def started(step: str = "draft", attempt: int = 1) -> Event:
    return told("step.started", step, attempt=attempt, model="openai/m")


def restarted(step: str = "draft") -> Event:
    return told("step.restarted", step, attempt=1, reason="stream_cut")


def finished(text: str | None, step: str = "draft", state: str = "succeeded") -> Event:
    empty = dict.fromkeys(("output", "model", "usage", "cost_usd", "error"))
    return told("step.finished", step, state=state, text=text, **empty)


def snapshot(**texts: str) -> Event:
    steps = [{**STEP, "path": path, "text": text} for path, text in texts.items()]
    return told("stream.snapshot", snapshot={"job": RUNNING, "steps": steps})


def seen(*events: Event, step: str | None = None) -> list[str]:
    return list(Text(events, step=step))


def test_words_are_appended_as_they_come() -> None:
    assert seen(started(), delta("Prices"), delta(" rose")) == ["Prices", "Prices rose"]


def test_thoughts_and_tool_calls_are_no_words() -> None:
    assert seen(delta(None, reasoning="hm"), delta(None, tool_call={"name": "x"})) == []


def test_a_restarted_step_takes_its_words_back() -> None:
    events = delta("Pri"), restarted(), started(attempt=2), delta("The"), delta(" end")
    assert seen(*events) == ["Pri", "", "The", "The end"]


def test_a_finished_step_has_the_last_word() -> None:
    assert seen(delta("Pri"), finished("Prices rose.")) == ["Pri", "Prices rose."]
    assert seen(delta("Prices"), finished("Prices")) == ["Prices"]


def test_a_failed_step_has_none() -> None:
    assert seen(delta("Pri"), finished(None, state="failed")) == ["Pri", ""]


def test_steps_stand_below_each_other_in_the_order_they_began() -> None:
    text = Text()
    for event in (delta("b", "two"), delta("a", "one"), delta("c", "two")):
        assert text.add(event)
    assert str(text) == "bc\n\na"
    assert text.steps == ("two", "one")
    assert text.of("one") == "a"


def test_one_step_may_be_read_alone() -> None:
    events = delta("b", "two"), delta("a", "one"), finished("A", "one")
    assert seen(*events, step="one") == ["a", "A"]


def test_a_snapshot_replaces_all_that_was_heard() -> None:
    events = delta("Pri"), delta("x", "gone"), snapshot(draft="Prices rose.")
    assert seen(*events)[-1] == "Prices rose."


def test_the_rest_of_a_text_whose_beginning_is_lost_is_not_shown() -> None:
    events = delta("Prices"), snapshot(), delta("last year."), finished("All of it.")
    assert seen(*events) == ["Prices", "", "All of it."]


def test_a_text_that_begins_after_a_snapshot_is_shown() -> None:
    for begin in (started(attempt=2), restarted()):
        assert seen(snapshot(), begin, delta("The")) == ["The"]


async def test_an_asynchronous_stream_is_read_the_same_way() -> None:
    async def events() -> AsyncIterator[Event]:
        for event in (delta("Prices"), delta(" rose")):
            yield event

    assert [text async for text in Text(events())] == ["Prices", "Prices rose"]
