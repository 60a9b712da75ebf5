"""Cancel signals from gateway and scheduler to every worker, in about a millisecond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown, Script

MAX_SIGNALS = 10_000
KEEP_S = 3600
BLOCK_S = 1.0
RECONNECT_S = 0.25
"""How long a listener rests while Redis is marked down; the ledger's beat covers it."""

# A stream and not pub/sub: what was said during a reconnect is heard after it.
_CANCEL = Script("""
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'j', ARGV[3], 'p', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
""")


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop these steps of a job; `paths=None` means all of them."""

    job: UUID
    paths: tuple[str, ...] | None


class Signals:
    """The one channel of cancel signals."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral
        self._key = ephemeral.key("cancel")

    async def cancel(self, job: UUID, paths: Iterable[str] | None) -> None:
        """Tell every worker. Raises EphemeralDown: then the beat tells them (<= 3 s)."""
        listed = None if paths is None else list(paths)
        await self._ephemeral.run(
            _CANCEL, [self._key], MAX_SIGNALS, KEEP_S, str(job), orjson.dumps(listed)
        )

    async def listen(self) -> AsyncIterator[Cancel]:
        """Every signal from now on, across reconnects; never ends, never raises."""
        after: bytes | None = None
        while True:
            try:
                after = after or await self._newest()
                found = await self._after(after)
            except EphemeralDown:
                await asyncio.sleep(RECONNECT_S)
                continue
            for number, fields in found:
                after = number
                yield _read(fields)

    async def _newest(self) -> bytes:
        found = await self._ephemeral.command(
            "XREVRANGE", self._key, "+", "-", "COUNT", 1
        )
        newest: bytes = found[0][0] if found else b"0-0"
        return newest

    async def _after(self, after: bytes) -> list[tuple[bytes, list[bytes]]]:
        reply: Any = await self._ephemeral.blocking(
            BLOCK_S,
            *("XREAD", "COUNT", 1000, "BLOCK", int(BLOCK_S * 1000)),
            *("STREAMS", self._key, after),
        )
        return reply[0][1] if reply else []


def _read(fields: list[bytes]) -> Cancel:
    paths = orjson.loads(fields[3])
    return Cancel(UUID(fields[1].decode()), None if paths is None else tuple(paths))
