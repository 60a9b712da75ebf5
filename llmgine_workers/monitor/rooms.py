"""What the Dead letters pages need of the stores: the ledger, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmgine_workers.broker import Broker
from llmgine_workers.engine.planning import Models
from llmgine_workers.engine.registry import Chains
from llmgine_workers.events.emit import Events
from llmgine_workers.events.logs import LogLines
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.settings import Settings

CONNECTIONS = 4


@dataclass(frozen=True)
class Rooms:
    """A runtime without what pages never use: tools, streams, limits."""

    ledger: Ledger
    broker: Broker
    prefix: str
    events: Events
    chains: Chains
    models: Models

    @classmethod
    def of(cls, settings: Settings, environ: Mapping[str, str], broker: Broker) -> Rooms:
        """Nothing is opened before a page asks for it."""
        prefix = settings.broker.prefix
        ledger = Ledger(settings.ledger.url, prefix, connections=CONNECTIONS)
        return cls(
            ledger,
            broker,
            prefix,
            Events([LogLines(settings.telemetry.logs)]),
            Chains(ledger),
            Models(settings, frozenset(settings.enabled_providers(environ))),
        )

    async def close(self) -> None:
        """Let go of the stores."""
        await self.events.close()
        await self.broker.close()
        await self.ledger.close()
