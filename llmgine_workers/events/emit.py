"""Facts go straight to their handlers; one that raises or hangs harms no job."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from llmgine_workers.events.facts import Fact

HANDLER_S = 1.0
"""A handler that takes longer is left alone ..."""
BENCH_S = 30.0
"""... for so long, or every fact of a job would cost it that second."""

_log = logging.getLogger(__name__)


class Handler(Protocol):
    """Something that looks at facts: a stream, a log, traces, metrics."""

    def wants(self, kind: type[Fact]) -> bool:
        """Asked once per kind of fact."""
        ...

    async def handle(self, facts: Sequence[Fact]) -> None:
        """Facts of one moment, in their order, all of a wanted kind."""
        ...

    async def close(self) -> None:
        """Write what is still held, then stop."""
        ...


class Events:
    """The one place that facts are told to.

    `missed` counts, by the handler's class, the facts it raised on, hung on or was
    spared.
    """

    def __init__(self, handlers: Sequence[Handler] = ()) -> None:
        self._handlers = tuple(handlers)
        self._wanted: dict[type[Fact], frozenset[Handler]] = {}
        self._benched: dict[Handler, float] = {}
        self.missed: Counter[str] = Counter()

    async def emit(self, *facts: Fact) -> None:
        """Tell the handlers, one after the other. Never raises (but CancelledError)."""
        for handler in self._handlers:
            wanted = [fact for fact in facts if handler in self._who_wants(type(fact))]
            if wanted:
                await self._hand(handler, wanted)

    async def close(self) -> None:
        """Close every handler."""
        for handler in self._handlers:
            await self._guarded(handler, handler.close(), 0)

    def _who_wants(self, kind: type[Fact]) -> frozenset[Handler]:
        found = self._wanted.get(kind)
        if found is None:
            found = frozenset(h for h in self._handlers if h.wants(kind))
            self._wanted[kind] = found
        return found

    async def _hand(self, handler: Handler, facts: Sequence[Fact]) -> None:
        back_at = self._benched.get(handler)
        if back_at is not None:
            if asyncio.get_running_loop().time() < back_at:
                self.missed[type(handler).__name__] += len(facts)
                return
            del self._benched[handler]
        await self._guarded(handler, handler.handle(facts), len(facts))

    async def _guarded(
        self, handler: Handler, work: Coroutine[Any, Any, None], count: int
    ) -> None:
        name = type(handler).__name__
        try:
            async with asyncio.timeout(HANDLER_S):
                await work
        except TimeoutError:
            self.missed[name] += count
            self._benched[handler] = asyncio.get_running_loop().time() + BENCH_S
            _log.warning("%s hangs; it is spared for %g s", name, BENCH_S)
        except Exception:
            # A handler only looks on: whatever is wrong with it is not the job's fault.
            self.missed[name] += count
            _log.exception("%s failed on a fact", name)
