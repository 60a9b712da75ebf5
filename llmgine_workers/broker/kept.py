"""A connection that is kept: made at first use, and again each second while away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from llmgine_workers.broker.protocol import CONNECT_S, PROBE_S, BrokerAway

_log = logging.getLogger(__name__)


class Session(Protocol):
    """A live connection; `gone` is set, by whoever notices first, when it is not."""

    gone: asyncio.Event

    async def leave(self) -> None:
        """Close what is left of it, within about a second."""
        ...


S = TypeVar("S", bound=Session)


class Kept(Generic[S]):
    """Holds the session that `connect` makes; `connect` raises only BrokerAway."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[S]]) -> None:
        self._name = name
        self._connect = connect
        self._session: S | None = None
        self._tried = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def current(self) -> S | None:
        """The live session, if there is one."""
        session = self._session
        return None if session is None or session.gone.is_set() else session

    async def get(self) -> S | None:
        """The live session; only the very first call waits for the connection."""
        if self._keeper is None and not self._closed:
            self._keeper = asyncio.create_task(self._keep(), name=f"keep {self._name}")
        if not self._closed:
            await self._tried.wait()
        return self.current

    async def close(self) -> None:
        """Leave the session and stop trying."""
        self._closed = True
        self._tried.set()
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        while True:
            session = await self._attempt()
            self._session = session
            self._tried.set()
            if session is None:
                await asyncio.sleep(PROBE_S)
                continue
            try:
                await session.gone.wait()
            finally:
                self._session = None
                await session.leave()
            _log.warning("%s: connection lost", self._name)

    async def _attempt(self) -> S | None:
        try:
            async with asyncio.timeout(CONNECT_S):
                session = await self._connect()
        except (BrokerAway, TimeoutError) as error:
            level = logging.DEBUG if self._tried.is_set() else logging.WARNING
            _log.log(level, "%s: cannot connect: %s", self._name, error or "timed out")
            return None
        _log.info("%s: connected", self._name)
        return session
