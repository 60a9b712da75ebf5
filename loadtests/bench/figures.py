"""Plain statistics of a run: percentiles, ratios, and what the simulator's log says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

SHOWN = (50, 95, 99)
"""The percentiles that every table has."""

Call = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` percent of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    rank = math.ceil(len(values) * share / 100)
    return sorted(values)[max(0, rank - 1)]


def spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The percentiles of some times, in milliseconds."""
    return {f"p{one}": round(1000 * percentile(seconds, one), 1) for one in SHOWN}


def ratio(ours: float, theirs: float) -> float:
    """How many times theirs ours is; NaN if theirs is nothing."""
    return round(ours / theirs, 3) if theirs else math.nan


def dispatch_s(posted: Mapping[str, float], calls: Sequence[Call]) -> list[float]:
    """From a job's POST to its first call at the provider, where both clocks are one."""
    accepted: dict[str, float] = {}
    for call in calls:
        if call["job"] in posted:
            first = accepted.get(call["job"], math.inf)
            accepted[call["job"]] = min(first, call["started_mono"])
    return [accepted[job] - begun for job, begun in posted.items() if job in accepted]


def calls_since(log: Path, offset: int) -> list[Call]:
    """The ended calls that the simulator wrote down behind an offset of its file."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = [orjson.loads(line) for line in file if line.endswith(b"\n")]
    return [line for line in lines if line["event"] == "end"]
