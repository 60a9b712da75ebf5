"""Finding tools in modules, and the ones that are always there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.tools import Tools, load_modules
from llmgine_workers.tools.built_in import split_text, word_count
from llmgine_workers.tools.marking import tool
from tests.tools.conftest import made

MINE = '''
from llmgine_workers.tools import tool

@tool
def shout(text: str, times: int = 1) -> str:
    """Say it loudly.

    More about that.
    """
    return text.upper() * times

@tool(name="whisper", timeout="2s")
async def _quiet(text: str) -> str:
    return text.lower()

def not_a_tool() -> None: ...
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, as a user has it."""
    name = f"tools_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


async def test_a_users_module_adds_to_our_tools(module: str) -> None:
    tools = load_modules([module])
    assert {"shout", "whisper", "word_count"} <= set(tools)
    assert "not_a_tool" not in tools
    assert await tools.call("shout", {"text": "hi", "times": 2}, timeout_s=5) == "HIHI"
    assert await tools.call("whisper", {"text": "HI"}, timeout_s=5) == "hi"


def test_a_tool_says_what_it_is(module: str) -> None:
    shout, whisper = (load_modules([module])[name] for name in ("shout", "whisper"))
    assert shout.description == "Say it loudly."
    assert shout.parameters == {
        "type": "object",
        "properties": {
            "text": {"title": "text", "type": "string"},
            "times": {"title": "times", "type": "integer", "default": 1},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    assert (whisper.timeout_s, whisper.is_async) == (2.0, True)
    assert (shout.timeout_s, shout.is_async) == (None, False)


def test_a_marked_function_can_still_be_called() -> None:
    assert word_count("one two") == {"words": 2, "characters": 7, "lines": 1}


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (None, "No module named"),
        ("this is no python", "SyntaxError"),
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("def f(): ...", "has no @tool function"),
        (
            "from llmgine_workers.tools import tool\n@tool\ndef f(*all): ...",
            "tool f: .*cannot be given by name",
        ),
        (
            "from llmgine_workers.tools import tool\n@tool\ndef f(x: object()): ...",
            "tool f: ",
        ),
        (
            "from llmgine_workers.tools import tool\n@tool\ndef word_count(): ...",
            "two tools are called word_count",
        ),
        (
            "from llmgine_workers.tools import tool\n@tool(timeout='soon')\ndef f(): ...",
            "a duration is written like",
        ),
    ],
)
def test_modules_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"bad_{tmp_path.name.replace('-', '_')}"
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_modules([name])
    assert name in str(caught.value) or "tool f" in str(caught.value)


def test_the_same_tool_may_be_found_twice() -> None:
    tools = Tools([made(word_count), made(word_count)])
    assert list(tools) == ["word_count"]


def test_a_duration_is_checked_when_the_tool_is_written() -> None:
    with pytest.raises(ValueError, match="a duration is written like"):
        tool(timeout="2 minutes")


def test_marking_needs_nothing_heavy() -> None:
    code = (
        "import sys, llmgine_workers.tools.marking as m\n"
        "print([n for n in ('openai', 'anthropic', 'aiohttp', 'celery', 'asyncpg')"
        " if n in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "words", "lines"),
    [
        ("", 0, 0),
        ("one", 1, 1),
        ("one two\nthree", 3, 2),
        ("one\n", 1, 1),
        ("\n\n", 0, 2),
    ],
)
def test_words_and_lines_are_counted(text: str, words: int, lines: int) -> None:
    counted = word_count(text)
    assert counted == {"words": words, "characters": len(text), "lines": lines}


def test_texts_are_cut_where_people_would() -> None:
    text = "First one. Second one.\n\nThe next paragraph."
    assert split_text(text, 30) == ["First one. Second one.", "The next paragraph."]
    assert split_text(text, 15) == ["First one.", "Second one.", "The next", "paragraph."]
    assert split_text("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]
    assert split_text("short") == ["short"]
    assert split_text(" \n ") == []


@given(st.text("ab .\n"), st.integers(1, 20))
def test_no_part_is_too_long_and_no_word_is_lost(text: str, most: int) -> None:
    parts = split_text(text, most)
    assert all(0 < len(part) <= most for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


async def test_the_clock_is_a_tool() -> None:
    now = await load_modules(()).call("current_time", {}, timeout_s=5)
    assert now["utc"].endswith("Z")
