"""Hints and letters, byte for byte."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.broker import DeadMessage, messages

JOB = UUID("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11")
OTHER = UUID("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d12")


def test_a_hint_is_a_celery_message_of_ids_only() -> None:
    hint = messages.hint(JOB, "draft", 0, "summarize")
    assert json.loads(hint.body) == [[str(JOB), "draft"], {}, {}]
    assert hint.headers["task"] == "llmgine.step"
    assert hint.headers["argsrepr"] == f"summarize draft {JOB}"
    assert hint.headers["shadow"] == "summarize/draft"
    assert hint.id == hint.headers["id"] == hint.correlation_id


def test_the_id_stays_for_a_retry_and_changes_for_a_replay() -> None:
    first = messages.hint(JOB, "draft", 0, "summarize")
    assert messages.hint(JOB, "draft", 0, "renamed").id == first.id
    others = {
        messages.hint(JOB, "draft", 1, "summarize").id,
        messages.hint(JOB, "draft.0", 0, "summarize").id,
        messages.hint(OTHER, "draft", 0, "summarize").id,
        first.id,
    }
    assert len(others) == 4
    assert {UUID(one).version for one in others} == {5}


@pytest.mark.parametrize(
    ("path", "shadow"),
    [
        ("draft", "report/draft"),
        ("notes.3.page", "report/notes.page"),
        ("sides.pro.argue", "report/sides.pro.argue"),
        ("refine.1.review.0.x", "report/refine.review.x"),
    ],
)
def test_the_shown_name_has_no_item_numbers(path: str, shadow: str) -> None:
    assert messages.hint(JOB, path, 0, "report").headers["shadow"] == shadow


def test_a_letters_message_id_is_its_id() -> None:
    letter = messages.letter(JOB, {"code": "tool_failed"})
    assert letter.id == str(JOB)
    assert json.loads(letter.body) == {"code": "tool_failed"}
    assert messages.dead(letter).letter_id == JOB


def test_a_hint_in_the_mirror_is_no_letter_although_its_id_is_a_uuid() -> None:
    dead = messages.dead(messages.hint(JOB, "draft", 0, "summarize"))
    assert dead.letter_id is None
    assert messages.is_hint(dead)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"{}", b"[]", b"[[]]", b"[[1, 2], {}, {}]", b'[["x", "draft"]]',
     b'[["0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11"]]', b'"' + b"x" * 70_000],
)  # fmt: skip
def test_anything_else_is_not_taken_for_a_hint(body: bytes) -> None:
    headers = {"task": "llmgine.step"}
    assert not messages.is_hint(DeadMessage(None, headers, body))


def test_another_task_is_not_taken_for_a_hint() -> None:
    hint = messages.hint(JOB, "draft", 0, "summarize")
    assert not messages.is_hint(DeadMessage(None, {"task": "other"}, hint.body))


@pytest.mark.parametrize("deaths", [None, [], "x", ["x"], [[]]])
def test_odd_death_headers_are_no_reason(deaths: Any) -> None:
    assert DeadMessage(None, {"x-death": deaths}, b"").reason is None


def test_the_last_death_is_the_reason() -> None:
    deaths = [{"reason": "rejected", "queue": "llmgine.openai", "count": 1}]
    dead = DeadMessage(None, {"x-death": deaths}, b"")
    assert dead.reason == "rejected from llmgine.openai"
