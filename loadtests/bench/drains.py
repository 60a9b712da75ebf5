"""One phase of load on a running system: a drain, or jobs at a steady rate."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from loadtests.bench import meter
from loadtests.bench.client import generator, prompts
from loadtests.bench.figures import calls_since, dispatch_s, spread_ms
from loadtests.bench.systems import System, store_pids
from loadtests.site import Site

POLL_S = 0.1
STALLED_S = 30.0
"""Without one more result for so long, a system is stuck."""


async def drain(
    system: System, site: Site, jobs: int, *, stream: bool, size: int = 1000
) -> dict[str, Any]:
    """Post all at once and wait for the last result: rates, CPU per job, memory."""
    texts = prompts(jobs, seed=jobs, size=size)
    before = await system.finished()
    ours, stores = meter.cpu_s(system.pids), meter.cpu_s(store_pids(site))
    offset = site.calls.stat().st_size
    async with generator(system) as load, meter.PeakMemory(system.pids) as memory:
        begun = time.monotonic()
        posts = await load.at_once(texts, stream=stream)
        took = await until_finished(system, before + jobs) - begun
    ours = meter.spent(ours, meter.cpu_s(system.pids))
    stores = meter.spent(stores, meter.cpu_s(store_pids(site)))
    calls = calls_since(site.calls, offset)
    answered = [c for c in calls if c["ended"] == "completed" and c["stream"] == stream]
    assert len(answered) == jobs, f"{jobs} jobs, {len(answered)} answers"
    return {
        "jobs": jobs,
        "jobs_per_s": round(jobs / took, 1),
        "submits_per_s": round(jobs / posts.span_s, 1),
        "cpu_ms_per_job": round(1000 * sum(ours.values()) / jobs, 2),
        "cpu_ms_by_process": _each(ours, jobs),
        "store_cpu_ms_per_job": _each(stores, jobs),
        "rss_mb": round(memory.mb, 1),
        "post_ms": spread_ms(posts.took_s),
    }


async def steady(
    system: System, site: Site, *, per_s: float, seconds: float
) -> dict[str, Any]:
    """Open loop: how long from a job's POST until the provider has its call."""
    jobs = round(per_s * seconds)
    before, offset = await system.finished(), site.calls.stat().st_size
    async with generator(system) as load:
        posts = await load.at_rate(prompts(jobs, seed=1), per_s)
    await until_finished(system, before + jobs)
    found = dispatch_s(posts.begun, calls_since(site.calls, offset))
    assert len(found) == jobs, f"{jobs} jobs, {len(found)} were called"
    return {
        "per_s": per_s,
        "jobs": jobs,
        "dispatch_ms": spread_ms(found),
        "post_ms": spread_ms(posts.took_s),
    }


async def warm_up(system: System, jobs: int = 20) -> None:
    """Until it has answered a few jobs of both kinds: imports done, connections open."""
    before = await system.finished()
    posted = 0
    async with generator(system) as load:
        await _until_listening(system)
        for stream in (False, True):
            some = prompts(jobs, seed=2)
            posted += len((await load.at_once(some, stream=stream)).begun)
    await until_finished(system, before + posted)


async def until_finished(system: System, count: int) -> float:
    """The moment when so many jobs have a result; TimeoutError if no more come."""
    seen, moved = -1, time.monotonic()
    while (finished := await system.finished()) < count:
        if finished > seen:
            seen, moved = finished, time.monotonic()
        if time.monotonic() - moved > STALLED_S:
            raise TimeoutError(f"{system.name}: {finished} of {count} jobs, then none")
        await asyncio.sleep(POLL_S)
    return time.monotonic()


async def _until_listening(system: System, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    host, port = system.url.removeprefix("http://").split(":")
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise TimeoutError(f"{system.name} does not listen within {within_s:g} s")


def _each(seconds: dict[str, float], jobs: int) -> dict[str, float]:
    return {name: round(1000 * one / jobs, 2) for name, one in seconds.items()}
