"""Readers of streams for a load run: what each saw, and whether it can be right."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp

SILENCE_S = 40.0
_TROUBLE = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass
class Reader:
    """One reader of one job, by SSE or WebSocket, cut `cuts` times on its way."""

    job: str
    posted_at: float
    by_socket: bool
    cuts: int
    rng: random.Random
    text: str = ""
    seen: int = 0
    frames: int = 0
    gaps: int = 0
    snapshots: int = 0
    restarts: int = 0
    first_ms: float | None = None
    later_ms: list[float] = field(default_factory=list)
    ended: dict[str, Any] | None = None

    async def read(self, client: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        """Follow to the end, over any of the gateways, with the cuts on the way."""
        while self.ended is None:
            left = self.rng.randint(2, 8) if self.cuts > 0 else None
            if self.cuts == 1:
                self.seen, self.text = 0, ""  # from the beginning once
            self.cuts -= 1
            try:
                async with aclosing(self._frames(client, self.rng.choice(urls))) as told:
                    async for event in told:
                        self.take(event)
                        if left is not None and (left := left - 1) == 0:
                            break
            except _TROUBLE:
                await asyncio.sleep(0.2)

    def take(self, event: dict[str, Any]) -> None:
        """What a careful reader does with an event."""
        kind, seq = event["type"], event["seq"]
        if kind != "stream.snapshot" and self.seen and seq != self.seen + 1:
            self.gaps += 1
        self.seen, self.frames = seq, self.frames + 1
        if kind == "step.delta":
            self.text += event.get("text") or ""
            self._time(event["at"])
        elif kind == "step.restarted":
            self.text, self.restarts = "", self.restarts + 1
        elif kind == "step.finished":
            self.text = event["text"] or ""
        elif kind == "stream.snapshot":
            steps = event["snapshot"]["steps"]
            self.text = steps[-1]["text"] if steps else ""
            self.snapshots += 1
        elif kind == "job.finished":
            self.ended = event

    def _time(self, at: str) -> None:
        now = time.time()
        if self.first_ms is None:
            self.first_ms = 1000 * (now - self.posted_at)
        else:
            self.later_ms.append(1000 * (now - datetime.fromisoformat(at).timestamp()))

    async def _frames(
        self, client: aiohttp.ClientSession, url: str
    ) -> AsyncIterator[dict[str, Any]]:
        address = f"{url}/v1/jobs/{self.job}/events?after={self.seen}"
        if self.by_socket:
            async with client.ws_connect(address, receive_timeout=SILENCE_S) as socket:
                async for message in socket:
                    yield json.loads(message.data)
            return
        async with client.get(address) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
