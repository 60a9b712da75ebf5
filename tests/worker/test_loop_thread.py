"""Synchronous code awaits on the worker's loop, from greenlets and from threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from llmgine_workers.loop_thread import (
    Interrupted,
    LoopThread,
    await_on_loop,
    run_switching,
    worker_loop,
)

color: ContextVar[str] = ContextVar("color", default="none")


def from_greenlet(function: Callable[[], Any]) -> Any:
    return worker_loop.run(run_switching(function))


def from_thread(function: Callable[[], Any]) -> Any:
    return function()


@pytest.fixture(params=[from_greenlet, from_thread])
def call(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.stop()


def test_importing_starts_no_thread() -> None:
    code = (
        "import threading, llmgine_workers.celery_app, llmgine_workers.celery_pool;"
        "raise SystemExit(threading.active_count() - 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_result_comes_back(call: Callable[[Callable[[], Any]], Any]) -> None:
    assert call(lambda: await_on_loop(asyncio.sleep(0, "value"))) == "value"


def test_an_exception_comes_back(call: Callable[[Callable[[], Any]], Any]) -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        call(lambda: await_on_loop(fail()))


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_what_celery_would_lose_becomes_an_exception(
    call: Callable[[Callable[[], Any]], Any], error: type[BaseException]
) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(Interrupted):
        call(lambda: await_on_loop(fail()))
    assert worker_loop.run(asyncio.sleep(0, "alive")) == "alive"


def test_the_coroutine_sees_context_variables(
    call: Callable[[Callable[[], Any]], Any],
) -> None:
    async def see() -> str:
        await asyncio.sleep(0)
        return color.get()

    def body() -> str:
        color.set("green")
        return await_on_loop(see())

    assert copy_context().run(call, body) == "green"


def test_a_greenlet_sees_what_its_coroutine_sets() -> None:
    async def paint() -> None:
        color.set("blue")

    def body() -> str:
        await_on_loop(paint())
        return color.get()

    assert from_greenlet(body) == "blue"


def test_greenlets_share_the_loop() -> None:
    async def both() -> list[str]:
        meeting = asyncio.Barrier(2)

        def body(name: str) -> str:
            await_on_loop(meeting.wait())
            return name

        return list(
            await asyncio.gather(run_switching(body, "a"), run_switching(body, "b"))
        )

    assert worker_loop.run(both()) == ["a", "b"]


def test_waiting_on_the_loops_own_thread_is_refused() -> None:
    async def wait_for_itself() -> None:
        await_on_loop(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="would never end"):
        worker_loop.run(wait_for_itself())


def test_a_held_context_is_entered_and_left_by_one_task(loop_thread: LoopThread) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(10):
            yield
        seen.append(asyncio.current_task())

    with loop_thread.holding(context()):
        assert len(seen) == 1
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_a_context_that_cannot_be_entered_raises_here(loop_thread: LoopThread) -> None:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        raise SystemExit(78)
        yield

    with pytest.raises(SystemExit, match="78"), loop_thread.holding(context()):
        pass


def test_stopping_cancels_what_is_left_and_ends_the_thread() -> None:
    thread = LoopThread()
    cancelled = threading.Event()

    async def stay() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def leave_one_behind() -> asyncio.Task[None]:
        task = asyncio.create_task(stay())
        await asyncio.sleep(0)
        return task

    thread.run(leave_one_behind())
    thread.stop()
    assert cancelled.is_set()
    assert thread.run(asyncio.sleep(0, "anew")) == "anew"
    thread.stop()
