"""Functions that block, each in a thread of its own, a bounded number at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any


class Threads:
    """At most `most` threads; whoever comes later waits for one to end.

    A thread cannot be stopped: one whose caller gave up keeps its place until its
    function returns. They are daemons, so that a stuck one cannot keep a process.
    """

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def run(self, function: Callable[[], Any]) -> Any:
        """What the function returns or raises, with the caller's context variables."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        context = copy_context()

        def told(value: Any, error: BaseException | None) -> None:
            self._places.release()
            if not ended.done():
                ended.set_result((value, error))

        def work() -> None:
            value, error = None, None
            try:
                value = context.run(function)
            except BaseException as raised:  # it belongs to the caller
                error = raised
            with suppress(RuntimeError):  # the loop has closed: nobody waits
                loop.call_soon_threadsafe(told, value, error)

        thread = threading.Thread(target=work, name="llmgine-tool", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            self._places.release()
            raise
        value, error = await ended
        if error is not None:
            raise error
        return value
