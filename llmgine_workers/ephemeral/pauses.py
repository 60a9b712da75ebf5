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
        keys = [pause_key(self._ephemeral, provider)]
        left: int = await self._ephemeral.run(_PAUSE, keys, milliseconds)
        return left / 1000

    async def left_s(self, provider: str) -> float:
        """Seconds until the gate opens, 0 if it is open. Raises EphemeralDown."""
        key = pause_key(self._ephemeral, provider)
        left: int = await self._ephemeral.command("PTTL", key)
        return max(0, left) / 1000


def pause_key(ephemeral: Ephemeral, provider: str) -> str:
    """Where a provider's pause is."""
    return ephemeral.key("pause", provider)
