"""The embedded servers of a stack: side by side, each as soon as it can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from llmgine_workers.cli.children import Say
from llmgine_workers.cli.local_broker import Choice
from llmgine_workers.local import EmbeddedPostgres, EmbeddedValkey, LocalServer

_POLL_S = 1.0


class Servers:
    """PostgreSQL, Valkey and, if the choice says so, a private RabbitMQ."""

    def __init__(self, data_dir: Path, broker: Choice) -> None:
        self.postgres = EmbeddedPostgres(data_dir / "postgres")
        self.valkey = EmbeddedValkey(data_dir / "valkey")
        self._broker = broker

    @property
    def broker_url(self) -> str:
        """Where hints go."""
        if self._broker.url is not None:
            return self._broker.url
        return (self._broker.server or self.valkey).url

    async def start(self, with_ledger: Callable[[str], Awaitable[object]]) -> None:
        """Start all; `with_ledger(url)` runs as soon as PostgreSQL answers."""
        others = [server for server in self._all() if server is not self.postgres]
        await asyncio.gather(
            self._start_ledger(with_ledger),
            *(asyncio.to_thread(server.start) for server in others),
        )

    async def keep(self, say: Say) -> None:
        """Start again what ends by itself, until cancelled."""
        while True:
            for server in self._all():
                if not server.running:
                    say(f"{server.name} ended; starting it again")
                    await asyncio.to_thread(server.start)
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Stop all cleanly."""
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in self._all()))

    async def discard(self) -> None:
        """Stop all; their data is of no use any more."""
        for server in self._all():
            if server is not self.postgres:  # killed, it would leave shared memory behind
                server.kill()
        await self.stop()

    def kill(self) -> None:
        """End all at once."""
        for server in self._all():
            server.kill()

    def _all(self) -> list[LocalServer]:
        private = [self._broker.server] if self._broker.server else []
        return [self.postgres, self.valkey, *private]

    async def _start_ledger(
        self, with_ledger: Callable[[str], Awaitable[object]]
    ) -> None:
        await asyncio.to_thread(self.postgres.start)
        await with_ledger(self.postgres.url)
