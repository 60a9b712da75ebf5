"""The Broker tab: every queue of the installation, and how many messages wait there.

Flower itself knows only queues that a live worker consumes, and asks RabbitMQ's
management plugin for their depths. Ours are known by name and asked over AMQP, so a
queue without workers and the dead letters are there too, and no plugin is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from flower.api.tasks import GetQueueLengths
from flower.views.broker import BrokerView

from llmgine_workers.broker import Broker, topology
from llmgine_workers.settings import TOOLS_POOL, Settings

Row = dict[str, Any]


def pools(settings: Settings) -> list[str]:
    """Every pool, also of a provider whose key only the workers have."""
    return [*settings.providers, TOOLS_POOL]


class Queues:
    """What Flower calls a broker: it answers the rows of the Broker tab."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        found = topology.queues(settings.broker.prefix, pools(settings), version=())
        self.names = [str(queue.name) for queue in found]

    async def queues(self, names: Sequence[str]) -> list[Row]:
        """One row for each; a depth is None where there is no queue or no answer."""
        depths = await asyncio.gather(*map(self._broker.depth, names))
        return [
            {"name": name, "messages": depth, "messages_ready": depth}
            for name, depth in zip(names, depths, strict=True)
        ]


class _OurQueues:
    """What both handlers ask of Flower's `BaseHandler`, answered from `Queues`."""

    application: Any

    def get_broker(self) -> Queues:
        """Instead of a client of the management plugin."""
        queues: Queues = self.application.queues
        return queues

    def get_active_queue_names(self) -> Sequence[str]:
        """All of them, whoever is alive."""
        return self.get_broker().names


class BrokerPage(_OurQueues, BrokerView):  # type: ignore[misc]  # Flower has no annotations
    """The page `/broker`."""


class QueueLengths(_OurQueues, GetQueueLengths):  # type: ignore[misc]
    """The same as JSON: `/api/queues/length`."""
