"""What is published, heard by any number of listeners over one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown, Line

MAX_HELD = 256
MAX_HELD_BYTES = 256 * 1024
"""Kept for a listener that is busy; one that falls behind is told that it missed some."""
PROBE_S = 2.0
"""A connection on which not even a ping came back for so long is lost."""


class Heard:
    """The messages of one listener."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._size = 0
        self._missed = False
        self._lost: str | None = None
        self._news = asyncio.Event()

    async def within(self, seconds: float) -> list[bytes] | None:
        """All that came, once something has; empty after that silence.

        None if some were dropped, because nobody asked for them in time. Raises
        EphemeralDown when the connection is lost.
        """
        if not self._news.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return []
        if self._lost is not None:
            raise EphemeralDown(self._lost)
        taken, missed = self._messages, self._missed
        self._messages, self._size, self._missed = [], 0, False
        self._news.clear()
        return None if missed else taken

    def take(self, message: bytes) -> None:
        """A message came."""
        self._news.set()
        self._size += len(message)
        if len(self._messages) >= MAX_HELD or self._size > MAX_HELD_BYTES:
            self._missed = True
        if self._missed:
            self._messages.clear()
        else:
            self._messages.append(message)

    def lose(self, reason: str) -> None:
        """No more will come."""
        self._lost = reason
        self._news.set()


class Broadcast:
    """Opens its connection for the first listener and anew after a loss."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral
        self._round: _Round | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Heard]:
        """Hear what is published there from now on. Raises EphemeralDown."""
        current = await self._opened()
        heard = Heard()
        try:
            await current.join(channel, heard)
            yield heard
        finally:
            await current.leave(channel, heard)

    async def close(self) -> None:
        """Hear no more."""
        if self._round is not None:
            await self._round.close()

    async def _opened(self) -> _Round:
        async with self._opening:
            if self._round is None or self._round.is_over:
                self._round = _Round(await self._ephemeral.open_line())
            return self._round


class _Channel:
    """Who listens, and whether the server knows by now."""

    def __init__(self) -> None:
        self.listeners: set[Heard] = set()
        self.known = asyncio.get_running_loop().create_future()


class _Round:
    """One connection's time: when it is lost, all who listen by it are told."""

    def __init__(self, line: Line) -> None:
        self.is_over = False
        self._line = line
        self._channels: dict[str, _Channel] = {}
        self._asked: dict[str, deque[_Channel]] = {}
        self._heard_any = True
        self._tasks = [
            asyncio.create_task(work) for work in (self._read(), self._probe())
        ]

    async def join(self, name: str, heard: Heard) -> None:
        """Listen; returns when the server has confirmed it. Raises EphemeralDown."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._asked.setdefault(name, deque()).append(channel)
            channel.listeners.add(heard)
            await self._line.send("SUBSCRIBE", name)
        channel.listeners.add(heard)
        await asyncio.shield(channel.known)
        if self.is_over:
            raise EphemeralDown("the connection to listen on was lost")

    async def leave(self, name: str, heard: Heard) -> None:
        """Listen no more."""
        channel = self._channels.get(name)
        if channel is None or heard not in channel.listeners:
            return
        channel.listeners.discard(heard)
        if not channel.listeners:
            del self._channels[name]
            self._line.post("UNSUBSCRIBE", name)

    async def close(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end("this process is stopping")

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._line.receive())
        except EphemeralDown as error:
            await self._end(str(error))

    def _take(self, reply: Any) -> None:
        self._heard_any = True
        kind, *rest = reply
        if kind == b"message":
            channel = self._channels.get(rest[0].decode())
            for heard in channel.listeners if channel else ():
                heard.take(rest[1])
        elif kind == b"subscribe":
            # Confirmed in the order in which they were asked for, one by one.
            asked = self._asked[name := rest[0].decode()]
            _settle(asked.popleft())
            if not asked:
                del self._asked[name]

    async def _probe(self) -> None:
        while self._heard_any and not self.is_over:
            self._heard_any = False
            self._line.post("PING")
            await asyncio.sleep(PROBE_S)
        await self._end(f"nothing came for {PROBE_S:g} s")

    async def _end(self, reason: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        for channel in self._channels.values():
            for heard in channel.listeners:
                heard.lose(reason)
            _settle(channel)
        self._channels.clear()
        await self._line.close()


def _settle(channel: _Channel) -> None:
    if not channel.known.done():
        channel.known.set_result(None)
