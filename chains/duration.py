"""Durations as people write them: `250ms 30s 5m 2h 7d`."""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")


def seconds(duration: str) -> float:
    """The length in seconds; ValueError says what is accepted."""
    match = _WRITTEN.fullmatch(duration)
    if match is None:
        raise ValueError("a duration is written like 250ms, 30s, 5m, 2h or 7d")
    return float(match[1]) * _SECONDS[match[2]]
