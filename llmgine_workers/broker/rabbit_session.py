"""One live connection to RabbitMQ: pika's callbacks turned into awaitables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika
from kombu.utils.url import parse_url
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from llmgine_workers.broker.confirms import Confirms
from llmgine_workers.broker.protocol import CONFIRM_S, CONNECT_S, BrokerAway

HEARTBEAT_S = 20
"""After two of these without a sign of life each side gives the connection up."""

_FAREWELL_S = 1.0
_IDLE_S = 1.0


class RabbitSession:
    """A connection with its publishing channel and one for questions."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.blocked = False
        self.confirms: Confirms
        self._closed = asyncio.Event()
        self._greeted = False
        self._connection: Any = None
        self._questions: Channel | None = None
        self._asking = asyncio.Lock()

    @classmethod
    async def connect(cls, url: str) -> RabbitSession:
        """BrokerAway if it cannot be had."""
        # pika logs each failed attempt as errors with tracebacks; `Kept` tells it once.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        session = cls()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session._connection = AsyncioConnection(
            _parameters(url),
            on_open_callback=lambda _: session._greet(opened),
            on_open_error_callback=lambda _, error: _refuse(opened, error),
            on_close_callback=lambda *_: session._part(),
        )
        try:
            await opened
            session._watch_blocking()
            publishing = await session._new_channel()
            publishing.add_on_close_callback(lambda *_: session.gone.set())
            session.confirms = Confirms(publishing)
        except BaseException:
            session._abort()
            raise
        return session

    @property
    def heard(self) -> int:
        """Frames received so far."""
        return int(self._connection.frames_received)

    def suspect(self, heard: int) -> None:
        """Give up a connection on which nothing came since it was at `heard`."""
        if self.heard == heard:
            self.gone.set()

    async def channel(self) -> Channel:
        """A new channel; BrokerAway if the connection is gone."""
        heard = self.heard
        try:
            return Channel(await self._new_channel())
        except BrokerAway:
            self.suspect(heard)
            raise

    async def ready(self, queue: str) -> int:
        """Messages ready in the queue; BrokerAway also if there is no such queue."""
        async with self._asking:
            if self._questions is None or not self._questions.is_open:
                self._questions = await self.channel()
            heard = self.heard
            try:
                return await self._questions.ready(queue)
            except BrokerAway:
                self._questions = None
                self.suspect(heard)
                raise

    async def leave(self) -> None:
        """Say goodbye; abort what does not answer."""
        self.confirms.abandon()
        if self._connection.is_open and not self.gone.is_set():
            self._connection.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._closed.wait()
        self._abort()

    def _greet(self, opened: asyncio.Future[None]) -> None:
        self._greeted = True
        _resolve(opened)

    def _part(self) -> None:
        self._closed.set()
        self.gone.set()

    def _abort(self) -> None:
        if self._connection.is_closed:
            return
        if self._greeted:
            # pika has no public abort; its heartbeat ends a dead connection by this, too.
            self._connection._terminate_stream(AMQPError("given up"))
        elif not self._connection.is_closing:
            self._connection.close()

    async def _new_channel(self) -> Any:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            channel = self._connection.channel(
                on_open_callback=lambda _: _resolve(opened)
            )
        except AMQPError as error:
            raise BrokerAway(str(error)) from None
        channel.add_on_close_callback(lambda _, error: _refuse(opened, error))
        await _answered(opened)
        return channel

    def _watch_blocking(self) -> None:
        """RabbitMQ reads no more from a publisher while it lacks memory or disk."""

        def blocked(*_: Any) -> None:
            self.blocked = True
            self.confirms.abandon()

        def unblocked(*_: Any) -> None:
            self.blocked = False

        self._connection.add_on_connection_blocked_callback(blocked)
        self._connection.add_on_connection_unblocked_callback(unblocked)


class Channel:
    """A channel for questions and consuming; its methods raise BrokerAway if it dies."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._asked: set[asyncio.Future[Any]] = set()
        channel.add_on_close_callback(self._on_close)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return bool(self._channel.is_open)

    async def ready(self, queue: str) -> int:
        """Messages ready in the queue, asked without declaring it."""
        answer = await self._ask(
            lambda done: self._channel.queue_declare(queue, passive=True, callback=done)
        )
        return int(answer.method.message_count)

    async def take(self, queue: str, count: int) -> list[tuple[Any, Any, bytes]]:
        """Exactly `count` messages, unacknowledged: (deliver, properties, body).

        The prefetch limit is what keeps a pass from touching a message behind it.
        Fewer if none came for a second.
        """
        taken: list[tuple[Any, Any, bytes]] = []
        arrived = asyncio.Event()

        def on_message(_: Any, deliver: Any, properties: Any, body: bytes) -> None:
            taken.append((deliver, properties, body))
            arrived.set()

        await self._ask(lambda done: self._channel.basic_qos(0, count, callback=done))
        tag = f"mirror-{id(taken)}"
        await self._ask(
            lambda done: self._channel.basic_consume(
                queue, on_message, consumer_tag=tag, callback=done
            )
        )
        with suppress(TimeoutError):
            while len(taken) < count and self.is_open:
                arrived.clear()
                async with asyncio.timeout(_IDLE_S):
                    await arrived.wait()
        await self._ask(lambda done: self._channel.basic_cancel(tag, callback=done))
        return taken

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Remove one message that was taken, or all up to it."""
        if self.is_open:
            self._channel.basic_ack(delivery_tag, multiple)

    def close(self) -> None:
        """Give back what was taken and not acknowledged."""
        if self.is_open:
            self._channel.close()

    async def _ask(self, question: Callable[[Callable[[Any], None]], Any]) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.add(answer)
        try:
            question(lambda frame: _resolve(answer, frame))
            return await _answered(answer)
        except AMQPError as error:
            raise BrokerAway(str(error)) from None
        finally:
            self._asked.discard(answer)

    def _on_close(self, _: Any, error: BaseException) -> None:
        for answer in self._asked:
            _refuse(answer, error)


async def _answered(answer: asyncio.Future[Any]) -> Any:
    try:
        async with asyncio.timeout(CONFIRM_S):
            return await answer
    except TimeoutError:
        raise BrokerAway(f"no answer within {CONFIRM_S:g} s") from None


def _resolve(future: asyncio.Future[Any], value: Any = None) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(BrokerAway(repr(error)))


def _parameters(url: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url.replace("pyamqp://", "amqp://", 1))
    # `amqp://host//` is the virtual host "/" for Celery, the empty one for pika.
    parameters.virtual_host = parse_url(url)["virtual_host"] or "/"
    parameters.heartbeat = HEARTBEAT_S
    parameters.connection_attempts = 1
    parameters.socket_timeout = CONNECT_S
    parameters.stack_timeout = CONNECT_S
    parameters.blocked_connection_timeout = None  # watched by the session
    parameters.client_properties = {"connection_name": "llmgine"}
    return parameters
