"""Failures that a job must not notice: a dead provider, first attempts, cut streams.

Three rounds on one site: a provider that refuses every call while a second candidate is
there, 30 % of first attempts that fail, 30 % of streams that are cut in the middle. The
simulator's log says whose text each result is. Exit 1 unless all three held.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp

from loadtests import witness
from loadtests.drive import Posted, session, until
from loadtests.site import Site, running

FIRST, SECOND = "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"
DONE_WITHIN_S = 5.0
SHARE = 0.3
PER_S = 20.0
FIRST_ATTEMPTS = {"kind": "503", "rate": SHARE, "match": {"attempt": 1}}
CUT_STREAMS = {"kind": "cut", "rate": SHARE, "match": {"stream": True}}
DEAD = {"kind": "500", "match": {"wire": "openai"}}


def main() -> None:
    """Run all three; exit 1 unless they held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="whose first attempt fails")
    parser.add_argument("--few", type=int, default=100, help="of each other round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        site_of = running(
            Path(folder),
            workers=["openai", "anthropic"],
            slots=100,
            simulator=("--latency", "0.3", "--seed", "1"),
            settings="[steps]\nmax_attempts = 10\n",
        )
        with site_of as site:
            held = asyncio.run(_run(site, arguments))
    print("HELD" if held else "NOT HELD")
    sys.exit(0 if held else 1)


async def _run(site: Site, arguments: argparse.Namespace) -> bool:
    held = await _dead_provider(site, arguments.few)
    held &= await _first_attempts(site, arguments.jobs)
    return await _cut_streams(site, arguments.few) and held


async def _dead_provider(site: Site, jobs: int) -> bool:
    """The second candidate takes over: how long the slowest job took."""
    shown = await _round(site, [DEAD], jobs, [FIRST, SECOND])
    (row,) = await site.query(
        "select max(extract(epoch from finished_at - created_at))::float8 as slowest, "
        "percentile_cont(0.5) within group (order by finished_at - created_at) as usual "
        "from jobs where state = 'succeeded'"
    )
    done = sum(job["state"] == "succeeded" for job in shown)
    usual = row["usual"].total_seconds()
    print(f"dead provider: {done} of {jobs} succeeded, median {usual:.2f} s, "
          f"slowest {row['slowest']:.2f} s")  # fmt: skip
    return bool(done == jobs and row["slowest"] <= DONE_WITHIN_S)


async def _first_attempts(site: Site, jobs: int) -> bool:
    before = len(witness.read_calls(site))
    shown = await _round(site, [FIRST_ATTEMPTS], jobs, SECOND)
    done = sum(job["state"] == "succeeded" for job in shown)
    failed = sum(c["status"] == 503 for c in witness.read_calls(site)[before:])
    print(f"first attempts: {failed} of {jobs} failed, {done} jobs succeeded")
    return done == jobs and failed > 0


async def _cut_streams(site: Site, jobs: int) -> bool:
    """Every result must be the text of one call that was completed, as a whole."""
    shown = await _round(site, [CUT_STREAMS], jobs, SECOND, stream=True)
    texts, cut = defaultdict(set), set()
    for call in witness.read_calls(site):
        if call["ended"] == "completed":
            texts[call["job"]].add(call["text_sha256"])
        elif call["ended"] == "cut":
            cut.add(call["job"])
    whole = sum(
        job["state"] == "succeeded"
        and hashlib.sha256(job["output"].encode()).hexdigest() in texts[job["id"]]
        for job in shown
    )
    harmed = sum(job["id"] in cut for job in shown)
    print(f"cut streams: {harmed} of {jobs} jobs had one, {whole} texts are of one call")
    return whole == jobs and harmed > 0


async def _round(
    site: Site,
    faults: list[dict[str, Any]],
    jobs: int,
    model: str | list[str],
    *,
    stream: bool = False,
) -> list[dict[str, Any]]:
    """Post under these faults, wait for the ends, lift them; the jobs as shown."""
    posted = Posted()
    await _admin(site, faults)
    async with session(site) as client:
        for _ in range(jobs):
            async with client.post("/v1/jobs", json=_job(model, stream)) as answer:
                posted.jobs.append((await answer.json())["id"])
            await asyncio.sleep(1 / PER_S)
    await until(lambda: witness.all_ended(site, posted), "all ended", within_s=180)
    await _admin(site, [])
    return list((await witness.shown_jobs(site, posted)).values())


def _job(model: str | list[str], stream: bool) -> dict[str, Any]:
    llm = {"model": model, "prompt": "Write a story.", "max_tokens": 100}
    chain = {"name": "failover", "steps": [{"name": "final", "llm": llm}]}
    return {"chain": chain, "options": {"stream": stream, "timeout": "10m"}}


async def _admin(site: Site, faults: list[dict[str, Any]]) -> None:
    """These faults and no others."""
    url = f"{site.simulator}/_sim/faults"
    async with aiohttp.ClientSession(raise_for_status=True) as client:
        await client.delete(url)
        for fault in faults:
            await client.post(url, json=fault)


if __name__ == "__main__":
    main()
