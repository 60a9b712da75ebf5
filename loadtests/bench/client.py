"""The load generator, the same for every system: posts jobs and keeps the times."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

WORDS = ("queue", "broker", "ledger", "token", "stream", "worker", "prompt", "chain")
CLIENTS = 32
"""Connections that post one after the other when a drain begins."""


class Target(Protocol):
    """What the generator has to know of a system."""

    url: str

    @property
    def headers(self) -> Mapping[str, str]:
        """Of every request."""

    @property
    def path(self) -> str:
        """Where one job is posted to."""

    def body(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """The JSON of one job."""


@dataclass
class Posts:
    """Every 202: when its request began (monotonic seconds) and how long it took."""

    begun: dict[str, float] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)

    @property
    def span_s(self) -> float:
        """From the first request to the last answer."""
        ended = [b + t for b, t in zip(self.begun.values(), self.took_s, strict=True)]
        return max(ended) - min(self.begun.values())


class Generator:
    """Posts to one target; AssertionError for a refusal."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target

    async def at_once(self, prompts: Sequence[str], *, stream: bool) -> Posts:
        """As fast as `CLIENTS` connections go, each waiting for its answer."""
        posts, left = Posts(), iter(prompts)

        async def one_client() -> None:
            for prompt in left:
                await self._post(prompt, stream, posts)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(one_client())
        return posts

    async def at_rate(self, prompts: Sequence[str], per_s: float) -> Posts:
        """So many a second, whatever the answers are (open loop)."""
        posts, begun = Posts(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, prompt in enumerate(prompts):
                due = begun + number / per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._post(prompt, False, posts))
        return posts

    async def _post(self, prompt: str, stream: bool, posts: Posts) -> None:
        body = self._target.body(prompt, stream=stream)
        begun = time.monotonic()
        async with self._session.post(self._target.path, json=body) as answer:
            found = await answer.json()
        # 200 if it had ended before we could be told that it was accepted.
        assert answer.status in (200, 202), (answer.status, found)
        posts.begun[found["id"]] = begun
        posts.took_s.append(time.monotonic() - begun)


@asynccontextmanager
async def generator(target: Target) -> AsyncIterator[Generator]:
    """A generator with connections of its own."""
    async with aiohttp.ClientSession(
        target.url,
        headers=target.headers,
        connector=aiohttp.TCPConnector(limit=256),
        timeout=aiohttp.ClientTimeout(60),
    ) as session:
        yield Generator(session, target)


def prompts(count: int, *, seed: int, size: int = 1000) -> list[str]:
    """So many different texts of about `size` bytes."""
    rng = random.Random(seed)
    words = size // 6
    return [f"{n}: {' '.join(rng.choices(WORDS, k=words))}" for n in range(count)]
