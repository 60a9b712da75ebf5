"""The heartbeat: its own thread and connection, so no work of ours can delay it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from llmgine_workers.ledger import workers
from llmgine_workers.ledger.connection import Ledger, LedgerDown

BEAT_S = 2.0
"""With 15 s until a silent worker is declared dead, seven beats may get lost."""

BEAT_TIMEOUT_S = 4.0


class Heartbeat:
    """Beats until stopped or declared dead; the worker's loop hears every answer."""

    def __init__(self, ledger: Ledger, hear: Callable[[workers.Pulse], None]) -> None:
        self._ledger = Ledger(ledger.url, ledger.schema, connections=1)
        self._hear = hear
        self._main = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, worker: UUID) -> None:
        """Begin beating for this incarnation."""
        self._stopped.clear()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._beat(worker)), name="heartbeat", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating; returns when the thread has ended."""
        self._stopped.set()
        if self._thread:
            await asyncio.to_thread(self._thread.join)

    async def _beat(self, worker: UUID) -> None:
        try:
            dead = False
            while not (dead or self._stopped.is_set()):
                with suppress(LedgerDown, TimeoutError):
                    async with asyncio.timeout(BEAT_TIMEOUT_S):
                        dead = await self._one(worker)
                await asyncio.to_thread(self._stopped.wait, BEAT_S)
        finally:
            await self._ledger.close()

    async def _one(self, worker: UUID) -> bool:
        async with self._ledger.connection() as connection:
            pulse = await workers.beat(connection, worker)
        with suppress(RuntimeError):  # the main loop has closed already
            self._main.call_soon_threadsafe(self._hear, pulse)
        return pulse.dead
