"""Requests and tokens allowed in any `window` seconds, refused beyond with a real 429."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit at one moment. `reset_s`: seconds until it is whole again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class RateRefusal:
    """Which limit (`requests` or `tokens`) was used up, and when to come back."""

    scope: str
    limit: int
    used: int
    requested: int
    retry_after: float


class SlidingWindow:
    """At most `limit` units in any `window` seconds; refused units are not counted."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self.used = 0
        self._entries: deque[tuple[float, int]] = deque()

    def wait_for(self, units: int, now: float) -> float:
        """Seconds until `units` fit: 0 if now, a whole window if never."""
        self._forget(now)
        over = self.used + units - self.limit
        if over <= 0:
            return 0.0
        for moment, spent in self._entries:
            over -= spent
            if over <= 0:
                return moment + self.window - now
        return self.window

    def take(self, units: int, now: float) -> None:
        """Count units as used from now on."""
        self._entries.append((now, units))
        self.used += units

    def budget(self, now: float) -> Budget:
        """What is left now."""
        self._forget(now)
        reset = self._entries[-1][0] + self.window - now if self._entries else 0.0
        return Budget(self.limit, max(0, self.limit - self.used), reset)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] + self.window <= now:
            self.used -= self._entries.popleft()[1]


class RateLimits:
    """The account's limits at one service: requests and tokens, each optional."""

    def __init__(self, requests: int | None, tokens: int | None, window: float) -> None:
        self._windows = {
            scope: SlidingWindow(limit, window)
            for scope, limit in (("requests", requests), ("tokens", tokens))
            if limit is not None
        }

    def admit(self, tokens: int, now: float) -> RateRefusal | None:
        """Count one request of `tokens` (input and output), or say why not."""
        units = {"requests": 1, "tokens": tokens}
        for scope, window in self._windows.items():
            if wait := window.wait_for(units[scope], now):
                requested = units[scope]
                return RateRefusal(scope, window.limit, window.used, requested, wait)
        for scope, window in self._windows.items():
            window.take(units[scope], now)
        return None

    def budgets(self, now: float) -> dict[str, Budget]:
        """What is left, by scope; empty without limits."""
        return {scope: window.budget(now) for scope, window in self._windows.items()}
