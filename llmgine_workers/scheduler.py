"""Everything driven by time. Any number may run: each tick of a duty has one owner."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from llmgine_workers import dead_letters
from llmgine_workers.alive import TOUCH_S, toucher
from llmgine_workers.engine import failover, replays, upkeep, webhooks
from llmgine_workers.engine.watch import Watch
from llmgine_workers.errors import DependencyDown
from llmgine_workers.events.exposed import exposed
from llmgine_workers.ledger import release, schema
from llmgine_workers.resilience.admission import Admission
from llmgine_workers.runtime import Runtime, open_runtime
from llmgine_workers.settings import Settings

log = logging.getLogger(__name__)

Duty = Callable[[], Awaitable[object]]

RELEASE_S = 0.1
WAKE_S = 0.25
EACH_SECOND = 1.0
REPLAYS_S = 0.25
LOST_HINTS_S = 5.0
ROTATE_S = 5.0
MEASURE_S = 5.0
PARTITIONS_S = 3600.0
STUCK_S = 120.0
"""No round takes so long, not even one over a hundred thousand letters."""


async def serve(settings: Settings, environ: Mapping[str, str]) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_runtime(settings, environ) as rt:
        await schema.verify_if_there(rt.ledger)
        with exposed(rt.metrics, settings.telemetry.metrics):
            running = asyncio.create_task(run(rt))
            await stop.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def run(rt: Runtime) -> None:
    """All duties, side by side, until cancelled."""
    rounds = Rounds()
    async with asyncio.TaskGroup() as group:
        for name, every_s, duty in duties(rt):
            group.create_task(_each(name, every_s, duty, rounds))
        group.create_task(_stay_alive(rounds, toucher(rt.settings.health.file)))


class Rounds:
    """Since when each duty is busy with its present round."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    @contextmanager
    def round(self, duty: str) -> Iterator[None]:
        """Around one round, however it ends."""
        self._since[duty] = time.monotonic()
        try:
            yield
        finally:
            del self._since[duty]

    @property
    def are_turning(self) -> bool:
        """Whether no duty is stuck in its round."""
        began_after = time.monotonic() - STUCK_S
        return all(since > began_after for since in self._since.values())


async def _stay_alive(rounds: Rounds, touch: Callable[[], None]) -> None:
    while True:
        if rounds.are_turning:
            touch()
        await asyncio.sleep(TOUCH_S)


def duties(rt: Runtime) -> list[tuple[str, float, Duty]]:
    """What is done, and how often (seconds)."""
    pools = rt.settings.pools(rt.environ)
    gate = Admission(rt.ephemeral, rt.settings.limits, rt.events)
    one_by_one = asyncio.Lock()
    return [
        *(
            (f"release {p}", RELEASE_S, partial(_release, rt, gate, one_by_one, p))
            for p in pools
        ),
        *(
            (f"lost hints {p}", LOST_HINTS_S, partial(upkeep.find_lost_hints, rt, p))
            for p in pools
        ),
        *(
            (f"failover {p}", EACH_SECOND, partial(failover.empty_shut_pool, rt, gate, p))
            for p in rt.settings.enabled_providers(rt.environ)
        ),
        ("wake", WAKE_S, partial(release.wake, rt.ledger)),
        ("waits", WAKE_S, partial(upkeep.end_waits, rt)),
        ("watch workers", EACH_SECOND, partial(upkeep.watch_workers, rt, Watch())),
        ("lost steps", EACH_SECOND, partial(upkeep.take_back_lost_steps, rt)),
        ("budgets", EACH_SECOND, partial(upkeep.wake_for_budgets, rt)),
        ("expire", EACH_SECOND, partial(upkeep.expire_jobs, rt)),
        ("endings", EACH_SECOND, partial(upkeep.settle_endings, rt)),
        ("count load", EACH_SECOND, partial(release.count_load, rt.ledger)),
        ("measure", MEASURE_S, partial(upkeep.measure, rt)),
        ("mirror letters", EACH_SECOND, partial(dead_letters.mirror, rt)),
        ("rotate", ROTATE_S, partial(dead_letters.rotate_if_due, rt)),
        ("replays", REPLAYS_S, partial(replays.advance, rt)),
        ("webhooks", EACH_SECOND, partial(webhooks.deliver, rt)),
        ("partitions", PARTITIONS_S, partial(upkeep.keep_partitions, rt)),
    ]


async def _release(
    rt: Runtime, gate: Admission, one_by_one: asyncio.Lock, pool: str
) -> None:
    """Pools that share a limit look at it one after the other, or both would give out
    the same room."""
    if any(limit.provider is None for limit in rt.settings.limits):
        async with one_by_one:
            await upkeep.release_steps(rt, gate, pool)
    else:
        await upkeep.release_steps(rt, gate, pool)


async def _each(name: str, every_s: float, duty: Duty, rounds: Rounds) -> None:
    """Repeat a duty for ever: what is away is tried again, a bug is said and survived."""
    away = False
    while True:
        try:
            with rounds.round(name):
                await duty()
            away = False
        except DependencyDown as error:
            if not away:
                log.warning("%s: %s", name, error)
            away = True
        except Exception:  # one duty's bug must not stop the others
            log.exception("%s failed", name)
        await asyncio.sleep(every_s)
