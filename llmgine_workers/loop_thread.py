"""The one asyncio loop of a worker process, and how synchronous code awaits on it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop

T = TypeVar("T")


class Interrupted(Exception):
    """The awaited coroutine was cancelled or asked the process to exit.

    An `Exception` because Celery loses the message of a task that ends otherwise.
    """


class LoopThread:
    """An event loop in a thread of its own, started by the first who needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, starting its thread if there is none yet."""
        with self._lock:
            if self._loop is None:
                started: Future[asyncio.AbstractEventLoop] = Future()
                self._thread = threading.Thread(
                    target=self._serve, args=(started,), name="llmgine-loop", daemon=True
                )
                self._thread.start()
                self._loop = started.result()
            return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result, from another thread.

        Raises what the coroutine raises, and `RuntimeError` on the loop's own thread,
        where waiting would never end.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("waiting for the loop on its own thread would never end")
        return _unwrap(self._submit(coroutine))

    @contextmanager
    def holding(self, context: AbstractAsyncContextManager[Any]) -> Iterator[None]:
        """Enter an asynchronous context on the loop for the time of a `with` block.

        One task enters and leaves it, as task groups and time-outs inside demand.
        """
        entered: Future[asyncio.Event] = Future()

        async def hold() -> None:
            async with context:
                leave = asyncio.Event()
                entered.set_result(leave)
                await leave.wait()

        held = self._submit(hold())
        either: list[Future[Any]] = [entered, held]
        wait(either, return_when=FIRST_COMPLETED)
        if not entered.done():
            _unwrap(held)
        try:
            yield
        finally:
            self.start().call_soon_threadsafe(entered.result().set)
            _unwrap(held)

    def stop(self) -> None:
        """Cancel what is left on the loop and end its thread; no-op if not running."""
        with self._lock:
            if self._loop is None or self._stopping is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._loop = self._stopping = self._thread = None

    def _submit(
        self, coroutine: Coroutine[Any, Any, T]
    ) -> Future[tuple[T | None, BaseException | None]]:
        return asyncio.run_coroutine_threadsafe(_settled(coroutine), self.start())

    def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._until_stopped(started))

    async def _until_stopped(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        self._stopping = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()


async def _settled(
    coroutine: Coroutine[Any, Any, T],
) -> tuple[T | None, BaseException | None]:
    try:
        return await coroutine, None
    except BaseException as exc:  # a SystemExit left in a task would end the whole loop
        return None, exc


def _unwrap(settled: Future[tuple[T | None, BaseException | None]]) -> T:
    value, error = settled.result()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # without an error there is a value


#: The loop of this process; importing starts nothing.
worker_loop = LoopThread()


class _Switching(greenlet):  # type: ignore[misc]  # greenlet has no annotations
    """Synchronous code that hands its coroutines to the greenlet that started it."""


async def run_switching(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a synchronous function in whose calls `await_on_loop` may be used.

    The function sees and sets the context variables of the caller.
    """
    child = _Switching(function)
    child.gr_context = getcurrent().gr_context
    answer = child.switch(*args, **kwargs)
    while not child.dead:
        value: Any = None
        error: BaseException | None = None
        try:
            value = await answer
        except BaseException as exc:  # all of it is the function's to handle
            error = exc
        answer = child.switch(value) if error is None else child.throw(error)
    return answer  # type: ignore[no-any-return]


def await_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine from synchronous code and return its result.

    Inside `run_switching` the loop goes on meanwhile; in any other thread (Celery's
    `-P threads`) the thread blocks and the coroutine runs on the worker's loop, with
    a copy of the caller's context variables. Raises what the coroutine raises, but
    `Interrupted` for what is no `Exception`.
    """
    current = getcurrent()
    try:
        if isinstance(current, _Switching):
            return current.parent.switch(coroutine)  # type: ignore[no-any-return]
        return worker_loop.run(coroutine)
    except (asyncio.CancelledError, SystemExit, KeyboardInterrupt) as exc:
        raise Interrupted(repr(exc)) from exc
