"""What a simulated provider can be told: its seed, speed, limits, faults and answers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Self

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|)")


def seconds(text: str) -> float:
    """Read `250ms`, `2s`, `1m` or a bare number of seconds. ValueError otherwise."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"not a duration: {text!r} (write 250ms, 2s, 1m or 0.25)")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a whole answer takes, in seconds.

    Fixed at `median`, or log-normal with that median and `p95`, kept in `low..high`.
    """

    median: float = 0.0
    p95: float | None = None
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.median < 0 or self.low < 0 or self.high < self.low:
            raise ValueError("a latency needs median >= 0 and 0 <= low <= high")
        if self.p95 is not None and not 0 < self.median <= self.p95:
            raise ValueError("a log-normal latency needs 0 < median <= p95")

    def at(self, share: float) -> float:
        """The latency below which this share (0..1, exclusive) of the answers stays."""
        if self.p95 is None:
            return self.median
        sigma = math.log(self.p95 / self.median) / _Z95
        value = self.median * math.exp(sigma * _NORMAL.inv_cdf(share))
        return min(max(value, self.low), self.high)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `400ms` or `lognormal:MEDIAN,P95[,MIN,MAX]`. ValueError otherwise."""
        kind, colon, rest = text.partition(":")
        if not colon:
            return cls(seconds(text))
        numbers = [seconds(part) for part in rest.split(",")]
        if kind != "lognormal" or len(numbers) not in (2, 4):
            raise ValueError(f"not a latency: {text!r} (lognormal:MEDIAN,P95[,MIN,MAX])")
        return cls(*numbers)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Everything that can be set. Times in seconds; a limit of None is no limit.

    `first_token`: time to a stream's first chunk; unset, a quarter of the latency.
    `chunk_rate`: chunks per second; unset, the chunks fill the rest of the latency.
    `requests` and `tokens` are allowed in any `window` seconds, per wire format.
    `fault_rates`: the share of calls that fail, by kind of fault.
    `models`: the only ones known (others are 404); empty, every name is.
    `cached_share`: share of the input reported as read from the cache.
    `tool_rate`: share of prompts with tools whose first answer is a tool call.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    log: Path | None = None
    latency: Latency = field(default_factory=Latency)
    first_token: float | None = None
    chunk_rate: float | None = None
    chunks: int = 20
    answer_tokens: int = 80
    requests: int | None = None
    tokens: int | None = None
    window: float = 60.0
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    require_key: bool = False
    models: tuple[str, ...] = ()
    cached_share: float = 0.0
    reasoning_tokens: int = 0
    tool_rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("chunks", "answer_tokens", "window"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("requests", "tokens", "chunk_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, or unset")
        for name in ("cached_share", "tool_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if self.reasoning_tokens < 0 or (self.first_token or 0) < 0:
            raise ValueError("reasoning_tokens and first_token must not be negative")
