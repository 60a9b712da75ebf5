"""What of a service's own words may stand in an error that people read."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_WORDS = 200
"""Characters of a service's sentence that are passed on."""

_QUOTE = 24
"""So many characters in common with a prompt are a quotation of it."""

_WORD = 4
"""A shorter prompt is a word like any other and gives nothing away."""

_KEY = re.compile(r"\b((sk|pk|rk|key|xai|gsk|Bearer)[-_ ]|AIza)[\w.*-]{6,}", re.I)
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")


def readable(sentence: str, *, key: str, prompts: Iterable[str]) -> str:
    """The sentence on one line, short, without keys and without the prompt.

    Empty if it quotes a prompt: services do so when they refuse a field's value.
    """
    line = _SPACE.sub(" ", sentence).strip()
    if len(line) > MAX_WORDS:
        line = line[:MAX_WORDS].rstrip() + "..."
    if key:
        line = line.replace(key, "[key]")
    line = _KEY.sub("[key]", line)
    return "" if any(_quotes(line, prompt) for prompt in prompts) else line


def _quotes(line: str, prompt: str) -> bool:
    text = _SPACE.sub(" ", prompt).strip()
    if len(text) <= _QUOTE:
        return len(text) >= _WORD and text in line
    starts = range(max(len(line) - _QUOTE + 1, 0))
    return any(line[start : start + _QUOTE] in text for start in starts)
