"""Closed gates: a provider asked every worker to stay away for some seconds."""

from __future__ import annotations

from llmgine_workers.ephemeral.connection import Ephemeral, Script

_PAUSE = Script("""
local left = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], 1, 'PX', left)
return left
""")


class Pauses:
    """One key per provider that lives as long as its pause."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral

    async def pause(self, provider: str, seconds: float) -> float:
        """Close the gate; a longer pause wins. Answers the seconds that are left.

        Raises EphemeralDown.
        """
        milliseconds = max(1, int(seconds * 1000))
        left: int = await self._ephemeral.run(_PAUSE, [self._key(provider)], milliseconds)
        return left / 1000

    async def left_s(self, provider: str) -> float:
        """Seconds until the gate opens, 0 if it is open. Raises EphemeralDown."""
        left: int = await self._ephemeral.command("PTTL", self._key(provider))
        return max(0, left) / 1000

    def _key(self, provider: str) -> str:
        return self._ephemeral.key("pause", provider)
