"""The broker over Valkey or Redis: the lists that kombu's own redis transport keeps.

A Celery worker on the same URL consumes what is published here. kombu waits in its
sockets, so all of it happens in one thread, and the caller's loop never blocks.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import orjson
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from llmgine_workers.broker.kept import Kept
from llmgine_workers.broker.messages import Message, dead
from llmgine_workers.broker.protocol import (
    CONFIRM_S,
    CONNECT_S,
    MIRROR_BATCH,
    BrokerAway,
    Judge,
)
from llmgine_workers.broker.topology import dead_queue

_PIPELINE = 500
"""Messages in one round trip."""

T = TypeVar("T")


class ValkeyBroker:
    """See `protocol.Broker`; made by `open_broker`."""

    def __init__(self, url: str, prefix: str) -> None:
        self._dead = dead_queue(prefix)
        self._kept = Kept("Valkey", lambda: _Session.connect(url))

    @property
    def up(self) -> bool:
        """Whether the last command was answered."""
        return self._kept.current is not None

    async def publish(self, queue: str, messages: Sequence[Message]) -> list[Message]:
        """Any queue exists; after a failure none of the messages counts as confirmed."""
        session = await self._kept.get()
        if session is None or not messages:
            return list(messages)
        try:
            await session.run(partial(session.push, queue, messages))
        except BrokerAway:
            return list(messages)
        return []

    async def depth(self, queue: str) -> int | None:
        """Messages in the list; 0 also for one that never was."""
        session = await self._kept.get()
        if session is None:
            return None
        try:
            return await session.run(partial(session.length, queue))
        except BrokerAway:
            return None

    async def mirror(self, judge: Judge) -> int:
        """Looking costs nothing here: what is kept stays in its place."""
        session = await self._kept.get()
        if session is None:
            return 0
        settled = 0
        try:
            raws = await session.run(partial(session.oldest_first, self._dead))
            seen: set[str] = set()
            for start in range(0, len(raws), MIRROR_BATCH):
                batch = raws[start : start + MIRROR_BATCH]
                gone = await _to_leave(batch, judge, seen)
                await session.run(partial(session.remove, self._dead, gone))
                settled += len(batch)
        except BrokerAway:
            pass  # what was not removed is still there
        return settled

    async def close(self) -> None:
        """Close the connections and end the thread."""
        await self._kept.close()


async def _to_leave(raws: Sequence[bytes], judge: Judge, seen: set[str]) -> list[bytes]:
    """Those the judge does not keep, and letters that were there already."""
    leaving, fresh = [], []
    for raw in raws:
        message = _unpack(raw)
        if dead(message).letter_id is not None and message.id in seen:
            leaving.append(raw)
            continue
        seen.add(message.id)
        fresh.append((raw, dead(message)))
    verdicts = await judge([message for _, message in fresh]) if fresh else []
    leaving += [raw for (raw, _), keep in zip(fresh, verdicts, strict=True) if not keep]
    return leaving


def _unpack(raw: bytes) -> Message:
    """kombu's envelope; its body is base64."""
    envelope = orjson.loads(raw)
    properties = envelope["properties"]
    return Message(
        id=properties.get("message_id") or "",
        body=base64.b64decode(envelope["body"]),
        headers=envelope["headers"],
        type=properties.get("type"),
    )


class _Session:
    """kombu's connection and the one thread that uses it."""

    def __init__(self, url: str) -> None:
        self.gone = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "valkey-broker")
        limits = {"socket_timeout": CONFIRM_S, "socket_connect_timeout": CONNECT_S}
        self._connection = Connection(url, transport_options=limits)

    @classmethod
    async def connect(cls, url: str) -> _Session:
        """BrokerAway if it does not answer."""
        session = cls(url)
        try:
            await session.run(session._open)
        except BaseException:
            session._thread.shutdown(wait=False)
            raise
        return session

    async def run(self, work: Callable[[], T]) -> T:
        """Its answer within `CONFIRM_S`; BrokerAway, and the session is gone, if none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONFIRM_S):
                return await loop.run_in_executor(self._thread, work)
        except (*self._errors, KombuError, OSError, TimeoutError) as error:
            self.gone.set()
            raise BrokerAway(str(error)) from None

    async def leave(self) -> None:
        """Close it from its own thread, behind whatever still waits there."""
        self._thread.submit(self._connection.release)
        self._thread.shutdown(wait=False)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (*self._connection.connection_errors, *self._connection.channel_errors)

    def _open(self) -> None:
        # Without these two, kombu sleeps before it tells that nobody answers.
        self._connection.ensure_connection(max_retries=1, interval_start=0)
        self._producer = Producer(self._connection.channel())
        self._client.ping()

    @property
    def _client(self) -> Any:
        return self._producer.channel.client

    def push(self, queue: str, messages: Sequence[Message]) -> None:
        with self._producer.batch(max_size=_PIPELINE):
            for message in messages:
                self._producer.publish(
                    message.body,
                    exchange="",
                    routing_key=queue,
                    content_type=message.content_type,
                    content_encoding=message.content_encoding,
                    headers=dict(message.headers),
                    message_id=message.id,
                    correlation_id=message.correlation_id,
                    type=message.type,
                )

    def length(self, queue: str) -> int:
        return int(self._producer.channel._size(queue))

    def oldest_first(self, queue: str) -> list[bytes]:
        """kombu pushes left and pops right."""
        return list(reversed(self._client.lrange(queue, 0, -1)))

    def remove(self, queue: str, raws: Sequence[bytes]) -> None:
        """Each by its whole text, which holds a delivery tag of its own."""
        with self._client.pipeline(transaction=False) as pipeline:
            for raw in raws:
                pipeline.lrem(queue, -1, raw)
            pipeline.execute()
