"""Ours beside what people write by hand: one run, one provider, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from loadtests.bench.drains import drain, steady, warm_up
from loadtests.bench.peer import KINDS, Peer
from loadtests.bench.systems import Ours, System, bench_site
from loadtests.site import Site

RATES = (50, 100)
"""Jobs a second at which dispatch is measured."""

TRIAL_JOBS = 400
"""Of a calibration: enough to fill the slots, few enough to try nine settings."""


async def contest(
    folder: Path, python: Path, *, jobs: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """All systems at the best of their settings, `rounds` times in turn."""
    site = bench_site(folder)
    try:
        systems: list[System] = [Ours(site)]
        systems += [Peer(kind, site, python) for kind in KINDS]
        trials = {one.name: await _calibrate(one, site, jobs) for one in systems}
        best = {name: _best(found) for name, found in trials.items()}
        found: dict[str, list[dict[str, Any]]] = {one.name: [] for one in systems}
        for _ in range(rounds):
            for one in systems:
                setting = best[one.name]
                found[one.name].append(await _play(one, site, setting, jobs, seconds))
        return {"trials": trials, "settings": best, "rounds": found}
    finally:
        site.stop()


async def _calibrate(system: System, site: Site, jobs: int) -> list[dict[str, Any]]:
    found = []
    for setting in system.settings:
        async with started(system, setting):
            one = await drain(system, site, min(jobs, TRIAL_JOBS), stream=False)
        found.append({"setting": setting, **one})
        print(f"{system.name} with {setting}: {one['jobs_per_s']} jobs/s", flush=True)
    return found


async def _play(
    system: System, site: Site, setting: int, jobs: int, seconds: float
) -> dict[str, Any]:
    async with started(system, setting):
        found = {
            "plain": await drain(system, site, jobs, stream=False),
            "streamed": await drain(system, site, jobs, stream=True),
            "steady": [
                await steady(system, site, per_s=rate, seconds=seconds) for rate in RATES
            ],
        }
    plain, streamed = found["plain"], found["streamed"]
    print(
        f"{system.name}: {plain['jobs_per_s']} jobs/s, {plain['cpu_ms_per_job']} ms CPU; "
        f"streamed {streamed['jobs_per_s']} jobs/s, {streamed['cpu_ms_per_job']} ms",
        flush=True,
    )
    return found


@asynccontextmanager
async def started(system: System, setting: int) -> AsyncIterator[None]:
    """The system runs in between, and has answered a few jobs."""
    try:
        await system.start(setting)
        await warm_up(system)
        yield
    finally:
        await system.stop()


def _best(trials: Sequence[dict[str, Any]]) -> int:
    return int(max(trials, key=lambda one: one["jobs_per_s"])["setting"])
