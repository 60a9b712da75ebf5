"""The tools that every installation has: harmless, useful, without a network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmgine_workers import clock
from llmgine_workers.tools.marking import tool


@tool
def word_count(text: str) -> dict[str, int]:
    """Count the words, characters and lines of a text."""
    lines = text.count("\n") + (not text.endswith("\n") if text else 0)
    return {"words": len(text.split()), "characters": len(text), "lines": lines}


@tool
def split_text(
    text: str, max_characters: Annotated[int, Field(ge=1, le=1_000_000)] = 4000
) -> list[str]:
    """Cut a text into parts of at most so many characters, at paragraphs if it can.

    Where a paragraph is longer it is cut at a sentence, else at a word, else anywhere.
    """
    parts: list[str] = []
    while len(text) > max_characters:
        cut = _cut(text, max_characters)
        parts.append(text[:cut].strip())
        text = text[cut:].lstrip()
    return [part for part in (*parts, text.strip()) if part]


@tool
async def current_time() -> dict[str, str | None]:
    """The current date and time, UTC."""
    return {"utc": clock.rfc3339(clock.now())}


def _cut(text: str, most: int) -> int:
    """The last good place to cut among the first `most` characters."""
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, 0, most)
        if at > 0:
            return min(at + len(mark), most)
    return most
