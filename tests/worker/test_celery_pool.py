"""The pool alone, on a hub that this thread turns: no broker, no worker process."""

# mypy: allow-untyped-calls
# (kombu says it is typed, and is not)
from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import ImproperlyConfigured
from kombu.asynchronous import Hub, set_event_loop

from llmgine_workers.celery_pool import TaskPool
from llmgine_workers.loop_thread import Interrupted, await_on_loop, worker_loop

TURNS = 500  # of at most a second each; a test that needs as many has failed


class Turned:
    """A started pool, and what its callbacks were told."""

    def __init__(self, hub: Hub, limit: int) -> None:
        self.hub = hub
        self.pool = TaskPool(limit)
        self.pool.start()
        self.pool.register_with_event_loop(hub)
        self.told: list[tuple[str, Any]] = []
        self.threads: set[threading.Thread] = set()

    def apply(self, target: Callable[[], Any]) -> None:
        self.pool.apply_async(
            target,
            callback=self._note("done"),
            error_callback=self._note("failed"),
            accept_callback=self._note("accepted"),
        )

    def _note(self, name: str) -> Callable[..., None]:
        def note(what: Any, *_: Any) -> None:
            self.threads.add(threading.current_thread())
            self.told.append((name, what))

        return note

    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    def turn_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(TURNS):
            if condition():
                return
            self.hub.run_once()
        raise AssertionError("the hub turned in vain")


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    set_event_loop(hub)
    yield hub
    hub.close()
    set_event_loop(None)


@pytest.fixture
def pool(hub: Hub) -> Iterator[Turned]:
    turned = Turned(hub, limit=2)
    yield turned
    turned.pool.on_terminate()
    turned.pool.stop()


class Gate:
    """Something a task waits for until the test opens it, from whatever thread."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def task(self) -> str:
        return await_on_loop(self._wait())

    async def _wait(self) -> str:
        self.started.set()
        await asyncio.to_thread(self._open.wait, 10)
        return "passed"


def test_the_result_is_told_on_the_hubs_thread(pool: Turned) -> None:
    pool.apply(lambda: await_on_loop(asyncio.sleep(0.01, "slept")))
    pool.turn_until(lambda: "done" in pool.names())
    assert pool.told == [("accepted", 1), ("done", "slept")]
    assert pool.threads == {threading.current_thread()}


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit])
def test_whatever_the_target_raises_is_told(
    pool: Turned, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error

    pool.apply(fail)
    pool.turn_until(lambda: "failed" in pool.names())
    assert pool.told[1][1].type is error
    assert pool.pool.info["running"] == 0


def test_a_task_cancelled_before_its_first_step_is_told(pool: Turned) -> None:
    hold = threading.Event()
    worker_loop.start().call_soon_threadsafe(hold.wait, 10)  # the loop stands still
    pool.apply(lambda: "never runs")
    pool.pool.terminate_job(1)
    hold.set()
    pool.turn_until(lambda: len(pool.told) == 2)
    assert pool.names() == ["accepted", "failed"]
    assert pool.told[1][1].type is Interrupted


def test_a_cancelled_coroutine_fails_its_task(pool: Turned) -> None:
    gate = Gate()
    pool.apply(gate.task)
    assert gate.started.wait(10)
    pool.pool.terminate_job(1)
    pool.turn_until(lambda: "failed" in pool.names())
    gate.open()
    assert pool.told[1][1].type is Interrupted


def test_no_more_run_than_there_are_slots(pool: Turned) -> None:
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        pool.apply(gate.task)
    assert pool.names() == ["accepted"] * 2
    assert (pool.pool.info["running"], pool.pool.info["waiting"]) == (2, 1)
    gates[0].open()
    pool.turn_until(lambda: "done" in pool.names())
    assert pool.names() == ["accepted", "accepted", "done", "accepted"]
    for gate in gates[1:]:
        gate.open()
    pool.turn_until(lambda: pool.names().count("done") == 3)


def test_a_lost_connection_forgets_what_was_not_started(pool: Turned) -> None:
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        pool.apply(gate.task)
    pool.pool.flush()
    for gate in gates:
        gate.open()
    pool.turn_until(lambda: pool.names().count("done") == 2)
    assert pool.pool.info["waiting"] == 0
    assert not gates[2].started.is_set()


def test_a_lost_connection_loses_no_ending(pool: Turned) -> None:
    pool.apply(lambda: await_on_loop(asyncio.sleep(0)))
    assert select.select([pool.pool._mailbox], [], [], 10)[0]
    pool.hub.reset()  # what Celery does when the broker connection breaks
    pool.pool.register_with_event_loop(pool.hub)
    pool.turn_until(lambda: "done" in pool.names())


def test_a_failing_callback_stops_no_other(pool: Turned) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    pool.pool.apply_async(lambda: 1, callback=broken, accept_callback=broken)
    pool.apply(lambda: 2)
    pool.turn_until(lambda: "done" in pool.names())
    pool.turn_until(lambda: pool.pool.info["running"] == 0)


def test_stopping_turns_the_hub_until_all_have_ended(hub: Hub) -> None:
    pool = Turned(hub, limit=2)
    beats: list[int] = []
    hub.timer.call_repeatedly(0.05, beats.append, (1,))
    for _ in range(3):
        pool.apply(lambda: await_on_loop(asyncio.sleep(0.3)))
    pool.pool.close()
    pool.pool.stop()
    assert pool.names() == ["accepted", "accepted", "done", "done"]
    assert len(beats) >= 3


def test_a_transport_without_an_event_loop_is_refused() -> None:
    set_event_loop(None)
    with pytest.raises(ImproperlyConfigured, match="-P threads"):
        TaskPool(2).start()
