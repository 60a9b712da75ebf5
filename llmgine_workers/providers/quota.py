"""What a service says of its own limits: how much is left, and when to come back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from llmgine_workers import clock
from llmgine_workers.llm import Quota

_STARTS = ("x-ratelimit-", "anthropic-ratelimit-")
"""OpenAI's and most others' (`x-ratelimit-remaining-tokens`); Anthropic's, which puts
the word behind (`anthropic-ratelimit-tokens-remaining`)."""

_UNITS = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "input-tokens",
    "output_tokens": "output-tokens",
}

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def quota_of(headers: Mapping[str, str]) -> Quota:
    """How much the service says is left; nothing where it says nothing readable."""
    return Quota(**{unit: _left(headers, word) for unit, word in _UNITS.items()})


def reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until all budgets that are used up are whole again; None if none is."""
    waits = [
        _wait_s(_told(headers, word, "reset"))
        for word in _UNITS.values()
        if _left(headers, word) == 0
    ]
    known = [seconds for seconds in waits if seconds is not None]
    return max(known) if known else None


def seconds_of(text: str) -> float | None:
    """A duration as Go writes it (`1s`, `6m0s`, `88ms`); None if it is none."""
    if not text or _PART.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def _wait_s(text: str) -> float | None:
    """A duration, bare seconds (Groq, Mistral), or a moment (Anthropic)."""
    found = seconds_of(text)
    if found is not None:
        return found
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else _until_s(text)
    except ValueError:
        return None


def _until_s(text: str) -> float | None:
    moment = datetime.fromisoformat(text)
    return (moment - clock.now()).total_seconds() if moment.tzinfo else None


def _left(headers: Mapping[str, str], word: str) -> int | None:
    text = _told(headers, word, "remaining")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _told(headers: Mapping[str, str], word: str, about: str) -> str:
    openai, anthropic = _STARTS
    return (
        headers.get(f"{openai}{about}-{word}")
        or headers.get(f"{anthropic}{word}-{about}")
        or ""
    )
