"""One phase of load on a running system: a drain, or jobs at a steady rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from loadtests.bench import meter
from loadtests.bench.client import generator, prompts
from loadtests.bench.figures import calls_since, dispatch_s, spread_ms
from loadtests.bench.systems import System, store_pids
from loadtests.site import Site

POLL_S = 0.1
SHOWN = 20
"""Results of a drain that are looked at."""

STALLED_S = 30.0
"""Without one more result for so long, a system is stuck."""


async def drain(
    system: System, site: Site, jobs: int, *, stream: bool, size: int = 1000
) -> dict[str, Any]:
    """Post all at once and wait for the last result: rates, CPU per job, memory."""
    texts = prompts(jobs, seed=jobs, size=size)
    ours, stores = meter.cpu_s(system.pids), meter.cpu_s(store_pids(site))
    offset = site.calls.stat().st_size
    async with generator(system) as load, meter.PeakMemory(system.pids) as memory:
        begun = time.monotonic()
        posts = await load.at_once(texts, stream=stream)
        took = await until_finished(system, jobs) - begun
    ours = meter.spent(ours, meter.cpu_s(system.pids))
    stores = meter.spent(stores, meter.cpu_s(store_pids(site)))
    await check_outputs(system, list(posts.begun))
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
    offset = site.calls.stat().st_size
    async with generator(system) as load:
        posts = await load.at_rate(prompts(jobs, seed=1), per_s)
    await until_finished(system, jobs)
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
    await _until_listening(system)
    async with generator(system) as load:
        for stream in (False, True):
            await load.at_once(prompts(jobs, seed=2), stream=stream)
    await until_finished(system, 2 * jobs)


async def until_finished(system: System, posted: int) -> float:
    """The moment when these, too, have a result; TimeoutError if no more come."""
    system.posted += posted
    fewest, moved = system.posted + 1, time.monotonic()
    while left := await system.unfinished():
        if left < fewest:
            fewest, moved = left, time.monotonic()
        if time.monotonic() - moved > STALLED_S:
            raise TimeoutError(f"{system.name}: {left} jobs have no result, none comes")
        await asyncio.sleep(POLL_S)
    return time.monotonic()


async def check_outputs(system: System, jobs: Sequence[str]) -> None:
    """Some of the results, as the system shows them."""
    async with aiohttp.ClientSession(system.url, headers=system.headers) as client:
        for job in jobs[:: max(1, len(jobs) // SHOWN)]:
            async with client.get(f"{system.path}/{job}") as answer:
                shown = await answer.json()
            assert shown["output"], f"{system.name}: {shown}"


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
