"""Hostile requests to a gateway: no 5xx, no stack trace, and a memory that stays flat.

    python -m loadtests.hostile [--requests 50000] [--seed 7] [--at-once 6]

Half-right bodies, wild addresses, and the OpenAPI document's own operations with values
that are changed. Starts an installation of its own, prints one line of JSON and ends.
`rss_mb` is the gateway's after each fifth of the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil

from loadtests.site import Site, running
from tests.gateway.hostile import Hostile

PARTS = 5
FLAT = 1.15
"""How much larger than after the second part the memory may be at the end."""
_SHOWN = 5


def main(arguments: Sequence[str]) -> None:
    """Send them; the exit status is 1 if one was answered by a defect, or RSS grew."""
    options = _parser().parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        running(Path(folder), slots=200, simulator=(), workers=()) as site,
    ):
        result = asyncio.run(_run(site, options))
        log = (site.folder / "gateway.log").read_text(errors="replace")
        result["traces_in_log"] = log.count("Traceback")
    sys.stdout.write(json.dumps(result) + "\n")
    good = not result["defects"] and not result["traces_in_log"] and result["is_flat"]
    sys.exit(0 if good else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.hostile")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--at-once", type=int, default=6)
    return parser


async def _run(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {site.key}"}
    statuses: Counter[int] = Counter()
    defects: list[Any] = []
    rss: list[float] = []
    process = psutil.Process(site.processes["gateway"].pid)
    async with httpx2.AsyncClient(
        base_url=site.url, headers=headers, timeout=60
    ) as client:
        hostile = await _hostile(client, options.seed)

        async def send(count: int) -> None:
            for _ in range(count):
                request = hostile.request()
                answer = await client.request(
                    request.method,
                    request.address,
                    headers=request.headers,
                    content=request.body,
                )
                statuses[answer.status_code] += 1
                if answer.status_code >= 500 or "Traceback" in answer.text:
                    defects.append([request.method, request.address, answer.text[:500]])

        for _ in range(PARTS):
            count = options.requests // PARTS // options.at_once
            await asyncio.gather(*(send(count) for _ in range(options.at_once)))
            rss.append(round(process.memory_info().rss / 1e6, 1))
    return {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "defects": len(defects),
        "first_defects": defects[:_SHOWN],
        "rss_mb": rss,
        "is_flat": rss[-1] <= FLAT * rss[1],
    }


async def _hostile(client: httpx2.AsyncClient, seed: int) -> Hostile:
    document = (await client.get("/openapi.json")).json()
    call = {"model": "openai/gpt-5-mini", "prompt": "Say something."}
    chain = {"name": "target", "steps": [{"name": "draft", "llm": call}]}
    made = (await client.post("/v1/jobs", json={"chain": chain})).json()
    return Hostile(made["id"], seed, document)


if __name__ == "__main__":
    main(sys.argv[1:])
