"""Pipelined publisher confirms on one channel: which messages reached a queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pika
from pika.exceptions import AMQPError

from llmgine_workers.broker.messages import Message

OUTSTANDING = 1_000
"""Unconfirmed messages on the wire; 200 already give full speed on loopback."""

_YIELD_EVERY = 50
"""Messages encoded (about 50 us each) before others on the loop get their turn."""

_PERSISTENT = 2


class _Batch:
    """The messages of one call; those confirmed leave `open`."""

    def __init__(self, queue: str, messages: Sequence[Message]) -> None:
        self.queue = queue
        self.messages = messages
        self.open = set(range(len(messages)))
        self.waiting = len(messages)
        self.done = asyncio.Event()

    def settle(self, index: int, *, confirmed: bool) -> None:
        if confirmed:
            self.open.discard(index)
        self.waiting -= 1
        if self.waiting == 0:
            self.done.set()


class Confirms:
    """Publishes over a fresh pika channel, which it puts into confirm mode."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._tag = 0
        self._pending: dict[int, tuple[_Batch, int]] = {}  # in the order of their tags
        self._returned: Counter[tuple[str, str]] = Counter()
        self._room = asyncio.Event()
        channel.confirm_delivery(self._on_confirm)
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(lambda *_: self.abandon())

    async def publish(
        self, queue: str, messages: Sequence[Message], timeout_s: float
    ) -> list[Message]:
        """Publish to a queue by its name; returns those not confirmed in that time."""
        batch = _Batch(queue, messages)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(batch)
                await batch.done.wait()
        except (TimeoutError, AMQPError):
            pass  # what is still open was not confirmed
        finally:
            self._forget(batch)
        return [messages[index] for index in sorted(batch.open)]

    def abandon(self) -> None:
        """Nothing more will be confirmed: every waiting call answers now."""
        for batch, _ in self._pending.values():
            batch.done.set()
        self._pending.clear()
        self._returned.clear()
        self._room.set()

    async def _send(self, batch: _Batch) -> None:
        for index, message in enumerate(batch.messages):
            if index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            while len(self._pending) >= OUTSTANDING:
                self._room.clear()
                await self._room.wait()
            if batch.done.is_set():
                return  # abandoned meanwhile
            # The default exchange: it always exists, and an unknown queue is returned.
            self._channel.basic_publish(
                "", batch.queue, message.body, _properties(message), mandatory=True
            )
            self._tag += 1
            self._pending[self._tag] = (batch, index)

    def _forget(self, batch: _Batch) -> None:
        if batch.waiting:
            late = [tag for tag, (of, _) in self._pending.items() if of is batch]
            for tag in late:
                del self._pending[tag]
            self._room.set()

    def _on_return(self, _: Any, method: Any, properties: Any, __: bytes) -> None:
        """Comes before the message's confirm, but without its tag."""
        self._returned[method.routing_key, properties.message_id] += 1

    def _on_confirm(self, frame: Any) -> None:
        confirmed = isinstance(frame.method, pika.spec.Basic.Ack)
        last = frame.method.delivery_tag
        if not frame.method.multiple:
            self._settle(last, confirmed=confirmed)
        else:
            for tag in self._tags_up_to(last):
                self._settle(tag, confirmed=confirmed)
        self._room.set()

    def _tags_up_to(self, last: int) -> list[int]:
        tags = []
        for tag in self._pending:
            if tag > last:
                break
            tags.append(tag)
        return tags

    def _settle(self, tag: int, *, confirmed: bool) -> None:
        entry = self._pending.pop(tag, None)
        if entry is None:
            return  # confirmed too late
        batch, index = entry
        key = (batch.queue, batch.messages[index].id)
        if self._returned and self._returned[key] > 0:
            self._returned[key] -= 1
            confirmed = False
        batch.settle(index, confirmed=confirmed)


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        message_id=message.id,
        type=message.type,
        headers=dict(message.headers),
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=_PERSISTENT,
    )
