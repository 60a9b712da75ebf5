"""What reaches the terminal: nothing that it would obey, no secret."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.cli import terminal


@given(st.text(st.characters()))
def test_no_text_can_control_the_terminal(text: str) -> None:
    shown = terminal.safe(text)
    kinds = {unicodedata.category(character) for character in set(shown) - {"\n", "\t"}}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not set("\x1b\x9b\r\x07\x08\u202e\u2066") & set(shown)


@pytest.mark.parametrize(
    "attack",
    ["\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x9b31m", "progress\roverwritten", "a\u202eb"],
)
def test_escape_sequences_arrive_harmless(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.stream(attack)
    terminal.say(attack)
    terminal.note(attack)
    terminal.say_table(["x"], [{"x": attack}], empty="")
    told = capsys.readouterr()
    for character in "\x1b\x9b\r\x07\u202e":
        assert character not in told.out + told.err


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "Größe: 5 €\n\t日本語 🙂 e\u0301"
    assert terminal.safe(text) == text
    assert terminal.safe("a\r\nb") == "a\nb"


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_json_is_exact_and_harmless(value: object) -> None:
    text = terminal.as_json(value)
    assert json.loads(text) == value
    assert not set("\x1b\x9b\r\u202e") & set(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://me:pass@host/v", "amqp://me:***@host/v"),
        ("redis://:pass@host:6379/0", "redis://:***@host:6379/0"),
        ("a postgresql://u:p%40ss@h/db b", "a postgresql://u:***@h/db b"),
        ("llmg_0123456789ab_00ffee", "llmg_0123456789ab_***"),
        ("sk-proj-abcdefgh1234", "sk-***"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert terminal.masked(text) == shown


def test_a_table_in_a_pipe_keeps_one_line_to_a_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": str(n) * 60, "why": "x" * 60, "none": None} for n in range(3)]
    terminal.say_table(["id", "why", "none"], rows, empty="nothing")
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_an_empty_table_says_so_beside_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say_table(["id"], [], empty="no open dead letters")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "no open dead letters\n")


def test_unknown_cost_is_not_shown_as_nothing() -> None:
    assert terminal.usd(None) == "unknown cost"
    assert terminal.usd(0.000734) == "$0.000734"
