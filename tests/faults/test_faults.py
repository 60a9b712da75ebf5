"""Short runs of the promise: one fault each, judged by three logs that know no other.

The long ones, with thousands of jobs, are `loadtests/faults/`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.site import Site
from loadtests.witness import Verdict

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS = 3
"""Of every job of the load."""


@dataclass
class Run:
    """What was posted, and what the witnesses say was different afterwards."""

    posted: Posted
    before: Verdict
    after: Verdict

    def more(self, what: str) -> int:
        """How much one of the verdict's numbers grew."""
        return int(getattr(self.after, what) - getattr(self.before, what))


@asynccontextmanager
async def load(site: Site, jobs: int, *, per_s: float) -> AsyncIterator[Run]:
    """Post while the body does its harm; afterwards every job has to succeed."""
    before = await witness.judge(site, Posted())
    run = Run(Posted(), before, before)
    posting = asyncio.create_task(
        post(site, jobs, per_s=per_s, seed=1, posted=run.posted)
    )
    yield run
    await posting
    await until(lambda: witness.all_ended(site, run.posted), "all ended", within_s=90)
    run.after = await witness.judge(site, run.posted)
    assert run.posted.refused == []
    assert run.after.accepted == jobs
    assert run.after.holds, str(run.after)
    assert run.more("completed_calls") == STEPS * jobs + run.more("paid_twice")


async def a_busy_worker(site: Site, calls: int) -> str:
    """The name of a worker in the middle of at least so many calls."""
    named = {process.pid: name for name, process in site.processes.items()}
    found: list[str] = []

    async def busy() -> bool:
        rows = await site.query(
            "select pid, count(*) as calls from workers "
            "join steps on steps.worker = workers.id "
            "where steps.state = 'running' group by pid"
        )
        found.extend(named[row["pid"]] for row in rows if row["calls"] >= calls)
        return bool(found)

    await until(busy, f"a worker in {calls} calls", within_s=30, every_s=0.02)
    return found[0]


def replace(site: Site, name: str) -> None:
    site.spawn(f"{name}-again", "worker", name.partition("-")[0])


async def test_without_a_fault_every_step_is_called_once(site: Site) -> None:
    async with load(site, 80, per_s=80) as run:
        pass
    assert run.more("paid_twice") == run.more("ambiguous") == 0


async def test_a_killed_workers_calls_are_made_again_and_named(site: Site) -> None:
    async with load(site, 60, per_s=200) as run:
        victim = await a_busy_worker(site, 5)
        site.kill(victim)
        replace(site, victim)
    assert run.more("ambiguous") > 0
    assert run.more("paid_twice") <= run.more("ambiguous")


async def test_a_broker_that_goes_away_costs_only_time(site: Site) -> None:
    async with load(site, 100, per_s=14) as run:
        await a_busy_worker(site, 1)
        await asyncio.to_thread(site.rabbit.stop)
        await asyncio.sleep(2)
        away = len(run.posted.jobs)
        await asyncio.to_thread(site.rabbit.start)
        assert away > 20, "jobs are taken without a broker"
    assert run.more("paid_twice") == run.more("ambiguous") == 0


async def test_a_worker_told_to_end_finishes_its_calls_first(site: Site) -> None:
    async with load(site, 60, per_s=100) as run:
        leaving = await a_busy_worker(site, 5)
        site.signal(leaving, signal.SIGTERM)
        process = site.processes.pop(leaving)
        replace(site, leaving)
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert run.more("paid_twice") == run.more("ambiguous") == 0


async def test_an_emptied_redis_costs_no_job(site: Site) -> None:
    async with load(site, 60, per_s=60) as run:
        for _ in range(3):
            await a_busy_worker(site, 1)
            await asyncio.to_thread(site.redis.flush)
    assert run.more("paid_twice") == run.more("ambiguous") == 0
