"""The broker over RabbitMQ: pika on the caller's loop, one connection, confirms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llmgine_workers.broker.kept import Kept
from llmgine_workers.broker.messages import Message, dead
from llmgine_workers.broker.protocol import (
    CONFIRM_S,
    MIRROR_BATCH,
    BrokerAway,
    Judge,
)
from llmgine_workers.broker.rabbit_session import Channel, RabbitSession
from llmgine_workers.broker.topology import dead_queue


class RabbitBroker:
    """See `protocol.Broker`; made by `open_broker`."""

    def __init__(self, url: str, prefix: str) -> None:
        self._dead = dead_queue(prefix)
        self._kept = Kept("RabbitMQ", lambda: RabbitSession.connect(url))

    @property
    def up(self) -> bool:
        """False also while RabbitMQ blocks publishers."""
        session = self._kept.current
        return session is not None and not session.blocked

    async def publish(self, queue: str, messages: Sequence[Message]) -> list[Message]:
        """Pipelined, in order, straight to the queue."""
        until = asyncio.get_running_loop().time() + CONFIRM_S
        session = await self._kept.get()
        if session is None or session.blocked or not messages:
            return list(messages)
        left_s = until - asyncio.get_running_loop().time()
        heard = session.heard
        failed = await session.confirms.publish(queue, messages, left_s)
        if failed and not session.blocked:
            session.suspect(heard)
        return failed

    async def depth(self, queue: str) -> int | None:
        """Asked of the queue itself, so exact at that moment."""
        session = await self._kept.get()
        if session is None:
            return None
        try:
            return await session.ready(queue)
        except BrokerAway:
            return None

    async def mirror(self, judge: Judge) -> int:
        """The rotate pass: each message is consumed once, kept ones are published anew.

        Looking without consuming is no way: to a quorum queue each look is a delivery,
        and the delivery limit ends messages that were only looked at.
        """
        session = await self._kept.get()
        if session is None:
            return 0
        channel: Channel | None = None
        rotation = _Rotation(self, self._dead, judge)
        try:
            channel = await session.channel()
            await rotation.run(channel)
        except BrokerAway:
            pass  # what was not acknowledged is still there
        finally:
            if channel is not None:
                channel.close()
        return rotation.settled

    async def close(self) -> None:
        """Close the connection; messages still waiting count as not confirmed."""
        await self._kept.close()


class _Rotation:
    """One pass over the mirror; `settled` counts also when it ends early."""

    def __init__(self, broker: RabbitBroker, queue: str, judge: Judge) -> None:
        self._broker = broker
        self._queue = queue
        self._judge = judge
        self._seen: set[str] = set()
        self.settled = 0

    async def run(self, channel: Channel) -> None:
        """Take as many messages as there were when it began: copies come behind them."""
        left = await channel.ready(self._queue)
        while left > 0:
            taken = await channel.take(self._queue, min(left, MIRROR_BATCH))
            if not taken or not await self._settle(channel, taken):
                return
            left -= len(taken)

    async def _settle(
        self, channel: Channel, taken: Sequence[tuple[Any, Any, bytes]]
    ) -> bool:
        """Acknowledge those that may leave and those whose copy is safe."""
        found = [_message(properties, body) for _, properties, body in taken]
        fresh = [message for message in found if self._is_new(message)]
        verdicts = await self._judge([dead(m) for m in fresh]) if fresh else []
        kept = [m for m, keep in zip(fresh, verdicts, strict=True) if keep]
        unsafe = set(await self._broker.publish(self._queue, kept) if kept else ())
        if not unsafe:
            # One command: of hundreds, RabbitMQ drops those it has not passed on to the
            # queue when the channel closes, and the messages come back.
            channel.ack(taken[-1][0].delivery_tag, multiple=True)
            self.settled += len(taken)
            return True
        for (deliver, _, _), message in zip(taken, found, strict=True):
            if message not in unsafe:
                channel.ack(deliver.delivery_tag)
                self.settled += 1
        return False

    def _is_new(self, message: Message) -> bool:
        """A letter is there twice if a pass was killed between copy and ack."""
        if dead(message).letter_id is None:
            return True
        if message.id in self._seen:
            return False
        self._seen.add(message.id)
        return True


def _message(properties: Any, body: bytes) -> Message:
    """A copy without what belonged to the original's way: expiry, user, reply address."""
    return Message(
        id=properties.message_id or "",
        body=body,
        headers=properties.headers or {},
        type=properties.type,
        correlation_id=properties.correlation_id,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
    )
