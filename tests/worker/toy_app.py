"""A Celery application for the tests: hints whose path says what they shall do.

Everything it sees goes to the journal, a file of JSON lines that the tests read.
"""

# mypy: allow-untyped-calls
# (kombu says it is typed, and is not)
from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from celery import signals
from kombu.entity import Queue

from llmgine_workers import alive, errors
from llmgine_workers.celery_app import Program, make_app
from llmgine_workers.celery_pool import TaskPool
from llmgine_workers.engine.outcome import (
    Dead,
    Done,
    Failover,
    Outcome,
    Retry,
    Skip,
    Wait,
)

alive.TOUCH_S = 0.1
UNTIL = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS: dict[str, Any] = json.loads(os.environ["TOY_SETTINGS"])

received_by: ContextVar[str] = ContextVar("received_by", default="nobody")
traced_task: ContextVar[str] = ContextVar("traced_task", default="none")
met: list[asyncio.Event] = []

_journal = os.open(SETTINGS["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str, **facts: Any) -> None:
    os.write(_journal, (json.dumps({"what": what, **facts}) + "\n").encode())


async def run_hint(job: str, path: str) -> Outcome:
    note(
        "started",
        job=job,
        received_by=received_by.get(),
        traced_task=traced_task.get(),
        thread=threading.current_thread().name,
    )
    kind, _, argument = path.partition(":")
    try:
        outcome = await BEHAVIOUR[kind](argument)
    except asyncio.CancelledError:
        note("cancelled", job=job)
        raise
    note("ended", job=job)
    return outcome


async def sleep(seconds: str) -> Outcome:
    await asyncio.sleep(float(seconds))
    return Done()


async def meet(count: str) -> Outcome:
    """End when `count` hints do this at the same time."""
    mine = asyncio.Event()
    met.append(mine)
    if len(met) == int(count):
        for other in met:
            other.set()
        met.clear()
    await mine.wait()
    return Done()


async def answer(name: str) -> Outcome:
    outcomes: dict[str, Outcome] = {
        "done": Done(),
        "skip": Skip("claimed by another"),
        "wait": Wait("limit", UNTIL),
        "retry": Retry("provider_overloaded", UNTIL),
        "failover": Failover("anthropic", "content_refused"),
        "dead": Dead("output_invalid", "not the schema", "ValidationError: x"),
    }
    return outcomes[name]


async def fail(name: str) -> Outcome:
    raise {
        "raise": RuntimeError("a defect"),
        "cancel": asyncio.CancelledError(),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
    }[name]


async def block(seconds: str) -> Outcome:
    """Hold the loop's thread."""
    time.sleep(float(seconds))  # noqa: ASYNC251 - that is the point
    return Done()


BEHAVIOUR: dict[str, Callable[[str], Coroutine[Any, Any, Outcome]]] = {
    "sleep": sleep,
    "meet": meet,
    "answer": answer,
    "fail": fail,
    "block": block,
}


class WitnessPool(TaskPool):
    """Our pool, noting on which thread Celery is told things."""

    def on_apply(
        self, target: Any, args: Any = (), kwargs: Any = None, **told: Any
    ) -> None:
        for name in ("accept_callback", "callback", "error_callback"):
            told[name] = self._witnessed(name, told[name])
        super().on_apply(target, args, kwargs, **told)

    @staticmethod
    def _witnessed(name: str, callback: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*what: Any) -> None:
            main = threading.current_thread() is threading.main_thread()
            note("told", name=name, on_hub_thread=main)
            callback(*what)

        return tell


def on_received(request: Any, **_: Any) -> None:
    received_by.set("the hub")
    if "stick:" in str(request.message.payload):
        note("stuck")
        time.sleep(60)


def on_prerun(task_id: str, **_: Any) -> None:
    traced_task.set(task_id)


signals.task_received.connect(on_received)
signals.task_prerun.connect(on_prerun)


@asynccontextmanager
async def lifespan(slots: int) -> AsyncIterator[None]:
    if error := SETTINGS.get("lifespan_raises"):
        raise getattr(errors, error)("the toy is broken")
    note("opened", slots=slots)
    async with asyncio.timeout(600):  # must be left by the task that entered it
        yield
    note("closed")


app = make_app(
    SETTINGS["broker"],
    SETTINGS["prefix"],
    [
        Queue(
            name,
            routing_key=name,
            no_declare=True,
            queue_arguments={"x-queue-type": "quorum"},
        )
        for name in SETTINGS["queues"]
    ],
    Program(run_hint, lifespan, lambda: note("touched", at=time.time())),
    slots=SETTINGS["slots"],
)
app.conf.broker_heartbeat = SETTINGS["heartbeat"]
app.conf.worker_pool = f"{__name__}:WitnessPool"
