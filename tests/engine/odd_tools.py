"""Tools that answer, break, and ask for another try."""

from __future__ import annotations

from llmgine_workers.tools import ToolUnavailable, tool


@tool
def shout(text: str) -> str:
    """The text in capitals."""
    return text.upper()


@tool
def break_oddly() -> str:
    """Fail with words that no database takes."""
    raise ValueError("nul \0 and surrogate \ud800")


@tool
def later() -> str:
    """Ask for another try."""
    raise ToolUnavailable("come back", retry_after_s=0.0)
