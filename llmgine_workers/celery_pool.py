"""A Celery pool that runs thousands of tasks at once on one asyncio loop.

Celery's own synchronous tracer runs in a greenlet on the loop's thread, and the task
body switches to the loop to await. Everything Celery wants to be told (accepted, done,
failed) is told on the thread that owns the broker connection, the *hub thread*.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop

from llmgine_workers.loop_thread import Interrupted, run_switching, worker_loop

logger = get_logger(__name__)


def _ignore(*_: Any) -> None:
    """Stand for a callback that Celery did not give."""


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """One call of Celery's tracer, and whom to tell about it."""

    number: int
    run: Callable[[], Any]
    on_accepted: Callable[[int, float], None]
    on_success: Callable[[Any], None]
    on_failure: Callable[[Any], None]


@dataclass(frozen=True, eq=False, slots=True)
class _Ending:
    """How a job ended: one of its callbacks and the argument for it."""

    number: int
    tell: Callable[[Any], None]
    what: Any


class _Mailbox:
    """Endings on their way from the loop's thread to the hub's.

    A socket the hub watches, and not `hub.call_soon`, for two reasons. What a callback
    itself schedules on the hub's thread (an acknowledgement) is run only after the next
    poll, so up to a second later, unless it was a readable file that led to the
    callback. And a hub whose connection breaks forgets the callbacks it had taken up;
    here they stay until they are delivered.
    """

    def __init__(self) -> None:
        self._endings: deque[_Ending] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        """Return what the hub must watch: readable while endings wait."""
        return self._reader.fileno()

    def post(self, ending: _Ending) -> None:
        """Leave an ending; for the loop's thread."""
        self._endings.append(ending)
        if not self._rung:
            self.ring()

    def ring(self) -> None:
        """Make the hub look."""
        self._rung = True
        with suppress(BlockingIOError):  # full: it has been rung often enough
            self._writer.send(b"\0")

    def deliver(self, handle: Callable[[_Ending], None]) -> None:
        """Hand over all that waits, also when the handler raises; for the hub's thread.

        The bell is silenced before the first look, so nothing posted meanwhile is missed.
        """
        with suppress(BlockingIOError):
            self._reader.recv(4096)
        self._rung = False
        try:
            while self._endings:
                handle(self._endings.popleft())
        finally:
            if self._endings:
                self.ring()


class TaskPool(BasePool):  # type: ignore[misc]  # Celery has no annotations
    """Celery pool of `limit` slots on the worker's one event loop."""

    signal_safe = False
    task_join_will_block = False
    body_can_be_buffer = True

    def on_start(self) -> None:
        """Find the hub and start the loop.

        Raises `ImproperlyConfigured` with a transport that has no event loop.
        """
        self._hub: Any = get_event_loop()
        if self._hub is None:
            raise ImproperlyConfigured(
                "this pool needs a broker with an event loop (amqp, redis); "
                "for any other start the worker with -P threads"
            )
        self._loop = worker_loop.start()
        self._mailbox = _Mailbox()
        self._numbers = itertools.count(1)
        self._waiting: deque[_Job] = deque()
        self._running: set[int] = set()
        self._tasks: dict[int, asyncio.Task[_Ending]] = {}  # the loop's thread only

    def register_with_event_loop(self, hub: Any) -> None:
        """Watch the mailbox; Celery calls this again for each broker connection."""
        hub.add_reader(self._mailbox.fileno(), self._deliver)

    # The hub's thread.

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        **callbacks: Any,
    ) -> None:
        """Run Celery's tracer as soon as a slot is free.

        Takes `accept_callback`, `callback` and `error_callback`; time limits are ours.
        """
        self._waiting.append(
            _Job(
                next(self._numbers),
                partial(target, *args, **(kwargs or {})),
                callbacks.get("accept_callback") or _ignore,
                callbacks.get("callback") or _ignore,
                callbacks.get("error_callback") or _ignore,
            )
        )
        self._fill_slots()

    def _fill_slots(self) -> None:
        # The broker's prefetch is no bound: after a reconnect it delivers anew while
        # the old calls go on. What waits here is neither started nor acknowledged.
        while self.active and self._waiting and len(self._running) < self.limit:
            job = self._waiting.popleft()
            self._running.add(job.number)
            self._loop.call_soon_threadsafe(self._spawn, job)
            # The number goes where Celery expects a pid: it only gives it back to
            # `terminate_job`, and one process runs all our jobs.
            _tell(job.on_accepted, job.number, time.monotonic())

    def _deliver(self) -> None:
        self._mailbox.deliver(self._finish)

    def _finish(self, ending: _Ending) -> None:
        self._running.discard(ending.number)
        _tell(ending.tell, ending.what)
        self._fill_slots()

    def flush(self) -> None:
        """Forget what was not started: the broker takes it back with its connection."""
        self._waiting.clear()
        self._deliver()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Cancel a running job by the number told when it was accepted."""
        self._loop.call_soon_threadsafe(self._cancel, pid)

    def on_terminate(self) -> None:
        """Cancel every running job, without waiting for them."""
        self._waiting.clear()
        for number in self._running:
            self.terminate_job(number)

    def on_stop(self) -> None:
        """Turn the hub until nothing runs: heartbeats go on and acknowledgements out."""
        self._waiting.clear()
        turns = self._watching_hub()  # Celery resets it when the broker went away
        while self._running:
            turns = self._turn_hub(turns)
        self._mailbox.ring()  # one turn more, at once, for the last acknowledgements
        self._turn_hub(turns)

    def _turn_hub(self, turns: Iterator[None]) -> Iterator[None]:
        try:
            next(turns)
            return turns
        except StopIteration:
            pass
        except Exception as exc:
            # The broker went away; what runs is worth finishing without it.
            logger.warning("broker lost, finishing %d jobs: %r", len(self._running), exc)
            with suppress(Exception):  # its readers are gone even if this fails
                self._hub.reset()
        return self._watching_hub()

    def _watching_hub(self) -> Iterator[None]:
        self.register_with_event_loop(self._hub)
        return self._hub.create_loop()  # type: ignore[no-any-return]

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "running": len(self._running),
            "waiting": len(self._waiting),
        }

    # The loop's thread.

    def _spawn(self, job: _Job) -> None:
        task = self._tasks[job.number] = self._loop.create_task(_run(job))
        task.add_done_callback(partial(self._post, job))

    def _post(self, job: _Job, task: asyncio.Task[_Ending]) -> None:
        del self._tasks[job.number]
        if task.cancelled():  # before its first step, so that nothing of it ran
            try:
                raise Interrupted("cancelled before it started")
            except Interrupted:
                ending = _Ending(job.number, job.on_failure, ExceptionInfo())
        else:
            ending = task.result()
        self._mailbox.post(ending)

    def _cancel(self, number: int) -> None:
        if task := self._tasks.get(number):
            task.cancel()


async def _run(job: _Job) -> _Ending:
    try:
        result = await run_switching(job.run)
    except BaseException:  # unreported, its slot and its message would be lost for ever
        return _Ending(job.number, job.on_failure, ExceptionInfo())
    return _Ending(job.number, job.on_success, result)


def _tell(callback: Callable[..., None], *what: Any) -> None:
    try:
        callback(*what)
    except MemoryError:
        raise  # how Celery asks for the end of the worker
    except Exception:  # Celery's own bookkeeping of one task must not stop the others
        logger.exception("a callback of Celery failed")
