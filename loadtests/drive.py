"""The client of a load run: posts jobs and keeps its own log of every 202."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from loadtests.site import Site

WORDS = "queue broker ledger token stream worker prompt chain hint fence".split()  # noqa: SIM905 - reads better


@dataclass
class Posted:
    """What the client knows by itself: each 202, how long it took, each refusal."""

    jobs: list[str] = field(default_factory=list)
    took_s: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def p99_ms(self, after: float = 0.0) -> float:
        """Of the posts begun `after` that many seconds, in milliseconds."""
        took = sorted(took for begun, took in self.took_s if begun >= after)
        return 1000 * took[int(len(took) * 0.99)] if took else 0.0


def chain_of(number: int) -> dict[str, Any]:
    """Three steps over both providers: half of all calls go to each."""
    models = ["openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"]
    steps = [
        {"name": name, "llm": {"model": models[(number + at) % 2], "prompt": prompt}}
        for at, (name, prompt) in enumerate(
            [
                ("draft", "{{ inputs.text }}"),
                ("review", "Review: {{ steps.draft.output | truncate(400) }}"),
                ("final", "Finish: {{ steps.review.output | truncate(400) }}"),
            ]
        )
    ]
    return {"name": f"load_{number % 2}", "inputs": {"text": {}}, "steps": steps}


def job_of(number: int, rng: random.Random) -> dict[str, Any]:
    """A prompt of 1 to 20 KB; every other pair of jobs streams."""
    size = rng.randrange(1_000, 20_000)
    text = " ".join(rng.choices(WORDS, k=size // 6))
    options = {"stream": number % 4 < 2, "timeout": "30m"}
    return {"chain": chain_of(number), "inputs": {"text": text}, "options": options}


async def post(
    site: Site, count: int, *, per_s: float, seed: int, posted: Posted | None = None
) -> Posted:
    """Post so many jobs at that rate, whatever the answers are."""
    posted = posted if posted is not None else Posted()
    rng = random.Random(seed)
    begun = time.monotonic()
    async with session(site) as client, asyncio.TaskGroup() as group:
        for number in range(count):
            due = begun + number / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_post(client, job_of(number, rng), posted, begun))
    return posted


async def until(
    condition: Callable[[], Any], what: str, *, within_s: float, every_s: float = 0.25
) -> float:
    """Seconds until an asynchronous condition held; TimeoutError beyond the bound."""
    begun = time.monotonic()
    while not await condition():
        if time.monotonic() - begun > within_s:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(every_s)
    return time.monotonic() - begun


def session(site: Site) -> aiohttp.ClientSession:
    """An HTTP client with the site's key."""
    return aiohttp.ClientSession(
        site.url,
        headers={"Authorization": f"Bearer {site.key}"},
        connector=aiohttp.TCPConnector(limit=100),
        timeout=aiohttp.ClientTimeout(30),
    )


async def _post(
    client: aiohttp.ClientSession, body: dict[str, Any], posted: Posted, begun: float
) -> None:
    started = time.monotonic()
    async with client.post("/v1/jobs", json=body) as answer:
        found = await answer.json()
    posted.took_s.append((started - begun, time.monotonic() - started))
    if answer.status == 202:
        posted.jobs.append(found["id"])
    else:
        posted.refused.append((answer.status, found.get("code", "")))
