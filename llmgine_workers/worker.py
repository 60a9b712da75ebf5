"""The worker program: `llmgine worker POOL`, or plain `celery -A llmgine_workers.worker`.

`app` is built at first use, not at import, from `./llmgine.toml` and the environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import chains

if getattr(chains, "CHAINS_OF", None) != "llmgine-workers":
    sys.stderr.write(
        f"llmgine: the package `chains` at {getattr(chains, '__path__', ['?'])[0]} hides "
        "the one of llmgine-workers; start the worker from another folder\n"
    )
    raise SystemExit(78)


from celery import Celery
from celery.signals import worker_shutting_down

from llmgine_workers import settings as settings_room
from llmgine_workers.alive import toucher
from llmgine_workers.broker import topology
from llmgine_workers.celery_app import Program, make_app
from llmgine_workers.engine.outcome import Outcome
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.settings import Settings
from llmgine_workers.worker_runtime import WorkerRuntime, open_worker


class _Program:
    """A worker's Celery application, and the runtime its hints run in."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._runtime: WorkerRuntime | None = None
        prefix = settings.broker.prefix
        self.app = make_app(
            settings.broker.url,
            prefix,
            [topology.pool_queue(prefix, pool) for pool in settings.pools(environ)],
            Program(self._run_hint, self._lifespan, toucher(settings.health.file)),
            slots=settings.worker.slots,
        )

    async def _run_hint(self, job: str, path: str) -> Outcome:
        assert self._runtime is not None  # noqa: S101 - hints come inside the lifespan
        return await run_step(self._runtime, UUID(job), path)

    @asynccontextmanager
    async def _lifespan(self, slots: int) -> AsyncIterator[None]:
        (queue,) = self.app.amqp.queues.consume_from
        pool = queue.removeprefix(f"{self._settings.broker.prefix}.")
        async with open_worker(self._settings, self._environ, pool, slots) as rt:
            self._runtime = rt
            with _draining_at_shutdown(rt):
                yield


@contextmanager
def _draining_at_shutdown(rt: WorkerRuntime) -> Iterator[None]:
    """Celery says in its main thread that SIGTERM came."""
    loop = asyncio.get_running_loop()

    def drain(**_: Any) -> None:
        loop.call_soon_threadsafe(rt.drain)

    worker_shutting_down.connect(drain, weak=False)
    try:
        yield
    finally:
        worker_shutting_down.disconnect(drain)


def build(settings: Settings, environ: Mapping[str, str]) -> Celery:
    """The application of a worker with these settings."""
    return _Program(settings, environ).app


def __getattr__(name: str) -> Any:
    """`app`, for `celery -A llmgine_workers.worker`."""
    if name != "app":
        raise AttributeError(name)
    found = build(settings_room.load(None, os.environ), os.environ)
    globals()["app"] = found
    return found
