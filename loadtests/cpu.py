"""CPU per one-step job of each process, with one worker kept full: plain, or streamed.

`python -m loadtests.cpu --stream` prints milliseconds of CPU per job, and the ledger's
transactions and statements per job.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests.drive import session, until
from loadtests.site import Site, running

BATCH = 100
WARM_UP = 300
"""Jobs before the measured ones: imports, connections and caches are not per job."""


def job_of(stream: bool) -> dict[str, Any]:
    """One step, a prompt of a few hundred bytes."""
    prompt = "Say what a ledger beside a queue is good for. " * 8
    step = {"name": "say", "llm": {"model": "openai/gpt-5-mini", "prompt": prompt}}
    chain = {"name": "one_step", "steps": [step]}
    return {"chain": chain, "options": {"stream": stream, "timeout": "30m"}}


async def post(site: Site, jobs: int, *, stream: bool, singly: bool) -> None:
    """Post them all as fast as the gateway takes them: by a hundred, or one by one."""
    gate = asyncio.Semaphore(16)
    async with session(site) as client, asyncio.TaskGroup() as group:

        async def send(path: str, body: Any) -> None:
            async with gate, client.post(path, json=body) as answer:
                assert answer.status == 202, await answer.text()

        for _ in range(jobs if singly else jobs // BATCH):
            if singly:
                group.create_task(send("/v1/jobs", job_of(stream)))
            else:
                some = {"jobs": [job_of(stream)] * BATCH}
                group.create_task(send("/v1/batches", some))


async def measure(site: Site, arguments: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of each process, and the ledger's transactions, for all the jobs."""
    await _through(site, WARM_UP, arguments)
    profiler = _profiler(site, arguments)
    before, commits = site.cpu_seconds(), await _transactions(site)
    begun = time.monotonic()
    await _through(site, arguments.jobs, arguments)
    took = time.monotonic() - begun
    after = site.cpu_seconds()
    found = {name: after[name] - before[name] for name in after}
    print(f"{arguments.jobs} jobs in {took:.1f} s, {arguments.jobs / took:.0f} jobs/s")
    print(
        f"transactions/job {(await _transactions(site) - commits) / arguments.jobs:.2f}"
    )
    if profiler:
        profiler.wait(30)
    return found


async def _through(site: Site, jobs: int, arguments: argparse.Namespace) -> None:
    await post(site, jobs, stream=arguments.stream, singly=arguments.singly)

    async def ended() -> bool:
        rows = await site.query("select count(*) from jobs where state = 'active'")
        return bool(rows[0][0] == 0)

    await until(ended, "all jobs ended", within_s=300, every_s=0.5)
    spoiled = await site.query("select 1 from jobs where state <> 'succeeded'")
    assert not spoiled, f"{len(spoiled)} jobs did not succeed"
    # What is gathered in the processes and the statistics of the ledger come late.
    await asyncio.sleep(1.5)


async def _transactions(site: Site) -> int:
    rows = await site.query(
        "select xact_commit from pg_stat_database where datname = current_database()"
    )
    return int(rows[0][0])


def _profiler(
    site: Site, arguments: argparse.Namespace
) -> subprocess.Popen[bytes] | None:
    if not arguments.profile:
        return None
    pid = site.processes[arguments.of].pid
    command = [arguments.profile, "record", "-p", str(pid), "-d", "12", "-r", "200"]
    options = ["-f", "raw", "-o", f"{arguments.of}.profile"]
    return subprocess.Popen([*command, *options])


def main() -> None:
    """Start a site with one worker, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--latency", default="1s", help="of the simulated provider")
    parser.add_argument("--stream", action="store_true", help="20 chunks each")
    parser.add_argument("--singly", action="store_true", help="not in batches of 100")
    parser.add_argument("--profile", help="py-spy's path: writes <process>.profile")
    parser.add_argument("--of", default="openai-0", help="the process to profile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as scratch:
        site_of = running(
            Path(scratch),
            workers=["openai"],
            slots=arguments.slots,
            simulator=("--latency", arguments.latency, "--chunks", "20"),
        )
        with site_of as site:
            found = asyncio.run(measure(site, arguments))
    for name, seconds in found.items():
        print(f"{name:12} {1000 * seconds / arguments.jobs:6.2f} ms/job")
    ours = sum(seconds for name, seconds in found.items() if name != "simulator")
    print(f"{'ours':12} {1000 * ours / arguments.jobs:6.2f} ms/job")


if __name__ == "__main__":
    sys.exit(main())
