"""Gates that a provider closed itself, by a 429 that says when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.pauses import Pauses

FRESH_S = 0.25
"""How long a process trusts what it saw of the shared gate."""


class Gates:
    """The pauses of all providers: shared by Redis, else this process's own."""

    def __init__(
        self, shared: Pauses, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._opens_at: dict[str, float] = {}
        self._seen_at: dict[str, float] = {}

    async def pause(self, provider: str, seconds: float) -> None:
        """Close the gate for all workers; a longer pause wins."""
        self._close_here(provider, seconds)
        try:
            self._close_here(provider, await self._shared.pause(provider, seconds))
        except EphemeralDown:
            return  # the other workers hear their own 429

    async def left_s(self, provider: str) -> float:
        """Seconds until the gate opens, 0 if it is open."""
        now = self._clock()
        if now - self._seen_at.get(provider, -FRESH_S) >= FRESH_S:
            self._seen_at[provider] = now
            with suppress(EphemeralDown):  # what this process knows itself still holds
                self._close_here(provider, await self._shared.left_s(provider))
        return self.left_here_s(provider)

    def left_here_s(self, provider: str) -> float:
        """The same by what this process has seen or been told."""
        return max(0.0, self._opens_at.get(provider, 0.0) - self._clock())

    def seen(self, provider: str, seconds: float) -> None:
        """It was found closed: so it is here, should Redis go away now."""
        self._close_here(provider, seconds)

    def _close_here(self, provider: str, seconds: float) -> None:
        opens_at = self._clock() + seconds
        self._opens_at[provider] = max(opens_at, self._opens_at.get(provider, opens_at))
