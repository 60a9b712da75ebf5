"""One tenant posts a flood, another a trickle: the second must hardly notice.

The trickle runs once alone and once behind the flood; a job's wait is what the gateway
says between its `created_at` and `finished_at`. Exit 1 unless its 95th percentile behind
the flood is below twice that alone. Bounded: ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.drive import until
from loadtests.site import Site, running

FACTOR = 2.0
BATCH = 1000
MODEL = "openai/gpt-5-mini"
STAGES = """
with quiet as (
    select j.created_at, s.released_at, s.started_at, s.finished_at,
           row_number() over (order by j.id desc) <= {last} as behind
    from steps s join jobs j on j.id = s.job_id where s.tenant = 'quiet'
)
select case when behind then 'behind' else 'alone' end as when,
       percentile_cont(0.5) within group (order by released_at - created_at) as held,
       percentile_cont(0.5) within group (order by started_at - released_at) as published,
       percentile_cont(0.5) within group (order by finished_at - started_at) as called
from quiet group by 1
"""
"""Where the time of the trickle's jobs went, at the median."""


def job(model: str = MODEL) -> dict[str, Any]:
    """One call of one model."""
    llm = {"model": model, "prompt": "{{ inputs.text }}", "max_tokens": 50}
    return {
        "chain": {
            "name": "fairness",
            "inputs": {"text": {"type": "string"}},
            "steps": [{"name": "say", "llm": llm}],
        },
        "inputs": {"text": "Say something."},
        "options": {"stream": False, "timeout": "2h"},
    }


def client(site: Site, key: str) -> aiohttp.ClientSession:
    """An HTTP client of one tenant."""
    headers = {"Authorization": f"Bearer {key}"}
    return aiohttp.ClientSession(
        site.url, headers=headers, timeout=aiohttp.ClientTimeout(60)
    )


async def flood(site: Site, key: str, jobs: int) -> None:
    """Post them in batches, as fast as they are taken."""
    async with client(site, key) as http:
        for begin in range(0, jobs, BATCH):
            body = {"jobs": [job()] * min(BATCH, jobs - begin)}
            async with http.post("/v1/batches", json=body) as answer:
                answer.raise_for_status()


async def trickle(
    site: Site, key: str, jobs: int, per_s: float, *, model: str = MODEL
) -> list[float]:
    """Post at that rate; seconds of every job from its creation to its end, sorted."""

    async def one(http: aiohttp.ClientSession, due: float) -> float:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        async with http.post("/v1/jobs?wait=60", json=job(model)) as answer:
            answer.raise_for_status()
            shown = await answer.json()
        assert shown["state"] == "succeeded", shown
        created, finished = (
            datetime.fromisoformat(shown[name]) for name in ("created_at", "finished_at")
        )
        return (finished - created).total_seconds()

    begun = time.monotonic()
    async with client(site, key) as http:
        tasks = (one(http, begun + n / per_s) for n in range(jobs))
        return sorted(await asyncio.gather(*tasks))


def p95(took: list[float]) -> float:
    """The 95th percentile of sorted seconds."""
    return took[int(len(took) * 0.95)]


async def run(site: Site, arguments: argparse.Namespace) -> bool:
    """Alone, then behind the flood."""
    loud, quiet = (site.key_of(tenant) for tenant in ("loud", "quiet"))
    await trickle(site, quiet, 10, arguments.rate)
    idle = await trickle(site, quiet, arguments.jobs, arguments.rate)
    posting = asyncio.create_task(flood(site, loud, arguments.flood))

    async def is_backlogged() -> bool:
        rows = await site.query("select backlogged from pools where pool = 'openai'")
        return bool(rows and rows[0][0])

    await until(is_backlogged, "a backlog", within_s=60)
    behind = await trickle(site, quiet, arguments.jobs, arguments.rate)
    assert await is_backlogged(), "the flood ended before the trickle: post more"
    await posting
    rows = await site.query(
        "select count(*) from steps where tenant = 'loud' and state = 'succeeded'"
    )
    print(f"CPU seconds {site.cpu_seconds()}")
    for row in await site.query(STAGES.format(last=arguments.jobs)):
        when, *stages = row.items()
        spent = ", ".join(f"{name} {of.total_seconds():.2f} s" for name, of in stages)
        print(f"{when[1]}: {spent}")
    print(
        f"alone p50 {idle[len(idle) // 2]:.2f} s p95 {p95(idle):.2f} s; "
        f"behind {arguments.flood:,} p50 {behind[len(behind) // 2]:.2f} s "
        f"p95 {p95(behind):.2f} s: {p95(behind) / p95(idle):.2f} times; "
        f"{rows[0][0]:,} of the flood were done by then"
    )
    held = p95(behind) < FACTOR * p95(idle)
    print("HELD" if held else "NOT HELD")
    return held


def main() -> None:
    """One site, one verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flood", type=int, default=50_000)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5.0, help="trickled jobs a second")
    parser.add_argument("--slots", type=int, default=40)
    parser.add_argument("--limit", default="", help="of openai's requests, as 600/1m")
    parser.add_argument("--latency", default="lognormal:1.0,1.3,0.8,1.5")
    arguments = parser.parse_args()
    limit = arguments.limit and (
        f'[[limits]]\nmatch = "openai/*"\nrequests = "{arguments.limit}"\n'
    )
    with tempfile.TemporaryDirectory(prefix="llmgine-") as scratch:
        site_of = running(
            Path(scratch),
            workers=["openai"],
            slots=arguments.slots,
            simulator=("--seed", "1", "--latency", arguments.latency),
            settings=limit,
        )
        with site_of as site:
            sys.exit(0 if asyncio.run(run(site, arguments)) else 1)


if __name__ == "__main__":
    main()
