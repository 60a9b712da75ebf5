"""Takes everything of one prefix out of RabbitMQ, for an installation that is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmgine_workers.broker.declare import _connected, _has_topology
from llmgine_workers.broker.topology import exchanges, queues

_CELERY = ("{}.control.pidbox", "reply.{}.control.pidbox", "{}.events")
"""What Celery makes for a prefix; its queues expire by themselves."""


async def remove(url: str, prefix: str, pools: Sequence[str]) -> None:
    """Delete the queues with all they hold, and the exchanges. Nothing to do over Redis.

    DependencyDown if RabbitMQ does not answer.
    """
    if _has_topology(url):
        await asyncio.to_thread(_remove, url, prefix, pools)


def _remove(url: str, prefix: str, pools: Sequence[str]) -> None:
    with _connected(url) as connection:
        channel = connection.default_channel
        for queue in queues(prefix, pools, (0,)):
            channel.queue_delete(queue.name)
        named = [exchange.name for exchange in exchanges(prefix)]
        for name in named + [form.format(prefix) for form in _CELERY]:
            channel.exchange_delete(name)
