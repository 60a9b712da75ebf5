"""The heartbeat: its own thread and connection, so no work of ours can delay it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from llmgine_workers.ledger import workers
from llmgine_workers.ledger.connection import Ledger, LedgerDown

log = logging.getLogger(__name__)

BEAT_S = 2.0
"""With 15 s until a silent worker is declared dead, seven beats may get lost."""

BEAT_TIMEOUT_S = 4.0


class Heartbeat:
    """Beats until stopped or declared dead; the worker's loop hears every answer."""

    def __init__(self, ledger: Ledger, hear: Callable[[workers.Pulse], None]) -> None:
        self._ledger = ledger
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
        # Its own, also apart from that of an earlier incarnation, which may still close.
        ledger = Ledger(self._ledger.url, self._ledger.schema, connections=1)
        try:
            while not self._stopped.is_set() and await self._lives(ledger, worker):
                await asyncio.to_thread(self._stopped.wait, BEAT_S)
        finally:
            await ledger.close()

    async def _lives(self, ledger: Ledger, worker: UUID) -> bool:
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                return not await self._one(ledger, worker)
        except (LedgerDown, TimeoutError):
            return True
        except Exception:  # a worker without a beat would be declared dead for a bug
            log.exception("a beat failed")
            return True

    async def _one(self, ledger: Ledger, worker: UUID) -> bool:
        async with ledger.connection() as connection:
            pulse = await workers.beat(connection, worker)
        with suppress(RuntimeError):  # the main loop has closed already
            self._main.call_soon_threadsafe(self._hear, pulse)
        return pulse.dead
