"""Hundreds of streams, followed by SSE and WebSocket over two gateways: first with calm
readers, then with every reader cut, a worker killed and Redis emptied once.

    python -m loadtests.streams --jobs 200 --cuts 5

Exits 1 unless every reader ended with the text of the ledger, without a gap while Redis
lived. Times of later chunks are from the fact in the worker to the reader.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil

from loadtests.readers import Reader
from loadtests.site import PROGRAM, Site, free_port, running

FIRST_TOKEN_S = 0.2
CHUNKS = 20
BOUND_S = 240
CHAIN = {
    "name": "streams",
    "inputs": {"text": {}},
    "steps": [
        {"name": "draft", "llm": {"model": "openai/gpt-5-mini",
                                  "prompt": "{{ inputs.text }}"}}
    ],
}  # fmt: skip


def main() -> None:
    """Both rounds; the exit status says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--cuts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=40.0)
    arguments = parser.parse_args()
    pace = ("--first-token", str(FIRST_TOKEN_S), "--chunk-rate", "10")
    with (
        tempfile.TemporaryDirectory(prefix="llmgine-") as folder,
        running(
            Path(folder),
            workers=("openai", "openai"),
            slots=400,
            simulator=(*pace, "--chunks", str(CHUNKS)),
        ) as site,
    ):
        sys.exit(0 if asyncio.run(_both(site, arguments)) else 1)


async def _both(site: Site, arguments: argparse.Namespace) -> bool:
    urls = [site.url, second := _second_gateway(site)]
    await _until_up(second)
    calm = await _round(site, urls, arguments, cuts=0)
    held = await _judged("calm", site, calm)
    _print_times(calm)
    harm = asyncio.create_task(_harm(site))
    cut = await _round(site, urls, arguments, cuts=arguments.cuts)
    await harm
    return await _judged("cut", site, cut) and held


async def _harm(site: Site) -> None:
    await asyncio.sleep(2.5)
    site.kill("openai-0")
    await asyncio.sleep(1.5)
    site.redis.flush()


async def _round(
    site: Site, urls: Sequence[str], arguments: argparse.Namespace, *, cuts: int
) -> list[Reader]:
    rng = random.Random(arguments.seed)
    headers = {"Authorization": f"Bearer {site.key}"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(None, sock_read=40)
    readers: list[Reader] = []
    async with (
        aiohttp.ClientSession(
            headers=headers, connector=connector, timeout=timeout
        ) as client,
        asyncio.timeout(BOUND_S),
        asyncio.TaskGroup() as group,
    ):
        for number in range(arguments.jobs):
            posted_at = time.time()
            job = await _posted(client, site.url, number)
            for by_socket in (False, True):
                rng_of = random.Random(rng.random())
                reader = Reader(job, posted_at, by_socket, cuts, rng_of)
                readers.append(reader)
                group.create_task(reader.read(client, urls))
            await asyncio.sleep(1 / arguments.per_second)
    return readers


async def _posted(client: aiohttp.ClientSession, url: str, number: int) -> str:
    body = {"chain": CHAIN, "inputs": {"text": f"tell {number}"}}
    async with client.post(f"{url}/v1/jobs", json=body) as answer:
        found = await answer.json()
    return str(found["id"])


async def _judged(name: str, site: Site, readers: Sequence[Reader]) -> bool:
    texts = await _texts(site)
    wrong = [r for r in readers if r.text != texts.get(r.job) or r.text == ""]
    gaps = sum(reader.gaps for reader in readers)
    print(f"{name}: {len(readers)} readers, {sum(r.frames for r in readers)} frames, "
          f"{len(wrong)} with another text, {gaps} gaps, "
          f"{sum(r.snapshots for r in readers)} snapshots, "
          f"{sum(r.restarts for r in readers)} restarts")  # fmt: skip
    print(f"  RSS of the gateways: {_rss(site)}")
    return not wrong and gaps == 0


def _print_times(readers: Sequence[Reader]) -> None:
    first = [r.first_ms - 1000 * FIRST_TOKEN_S for r in readers if r.first_ms is not None]
    later = [ms for reader in readers for ms in reader.later_ms]
    print(f"  first byte without the provider's time: {_percentiles(first)}")
    print(f"  later chunks, from worker to reader:    {_percentiles(later)}")


async def _texts(site: Site) -> dict[str, str]:
    rows = await site.query(
        "select job_id, body::jsonb ->> 'text' as text from payloads "
        "where kind = 'output' and path = 'draft'"
    )
    return {str(row["job_id"]): row["text"] for row in rows}


def _second_gateway(site: Site) -> str:
    port = free_port()
    first = (site.folder / "llmgine.toml").read_text()
    config = site.folder / "second.toml"
    config.write_text(
        first.replace(site.url.removeprefix("http://"), f"127.0.0.1:{port}")
    )
    with (site.folder / "gateway-2.log").open("ab") as log:
        site.processes["gateway-2"] = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, "--config", str(config), "gateway"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return f"http://127.0.0.1:{port}"


async def _until_up(url: str) -> None:
    async with aiohttp.ClientSession() as client, asyncio.timeout(30):
        while True:
            try:
                async with client.get(f"{url}/healthz"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


def _percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    at = (ordered[int(len(ordered) * share)] for share in (0.5, 0.95, 0.99))
    return "p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms".format(*at)


def _rss(site: Site) -> str:
    names = ("gateway", "gateway-2")
    sizes = (psutil.Process(site.processes[n].pid).memory_info().rss for n in names)
    return ", ".join(f"{size / 1024**2:.0f} MB" for size in sizes)


if __name__ == "__main__":
    main()
