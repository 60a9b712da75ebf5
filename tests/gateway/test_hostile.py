"""Requests that nobody means well with: each is answered, and none by a defect.

`LLMGINE_HOSTILE=50000` makes as many; `LLMGINE_SEED` other ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import httpx2
import pytest

from tests.gateway.conftest import CHAIN, Live, Seat

pytestmark = pytest.mark.integration

COUNT = int(os.environ.get("LLMGINE_HOSTILE", "300"))
SEED = int(os.environ.get("LLMGINE_SEED", "7"))
GOOD: list[dict[str, Any]] = [
    {
        "chain": "summarize",
        "inputs": {"text": "x"},
        "metadata": {"a": "b"},
        "options": {"priority": "normal", "timeout": "5m", "max_cost_usd": 0.5},
    },
    {"chain": CHAIN, "inputs": {"text": "x"}},
    {"tool": "word_count", "arguments": {"text": "x"}},
]
_PLAIN = """
chain inputs text jobs tool arguments metadata options priority timeout stream name steps
llm model prompt schema use parallel when fallback needs summarize fast tools system
openai/gpt-5-mini {{ {{inputs.text}} 5m sentences type string $ref # max_tokens output
"""
WORDS = [*_PLAIN.split(), "\0", "\ud800", "a/b~", "\u00e9\U0001f600", "x" * 3000, ""]
NUMBERS = [0, -1, 2**63, 2**64, 10**400, 1.5, 1e300, True, False, None]
PATHS = """
/v1/jobs /v1/batches /v1/pools /v1/chains /v1/jobs/{job} /v1/jobs/{job}/steps /readyz
/v1/jobs/{job}/steps/draft /v1/jobs/{job}/cancel /v1/jobs/{job}/explain /openapi.json
/v1/batches/{job} /%00 /v1/jobs/%ff /v1/jobs/{job}/steps/%00
"""
NAMES = (
    "state", "chain", "batch", "created_after", "limit", "cursor", "wait", "metadata.a",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1e9", "nan", "failed", "%00", "%ff", "%ED%A0%80", "a" * 500, "0.1",
    "2026-11-20T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000",
)  # fmt: skip
METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")


class Hostile:
    """Makes requests that are nearly right, or not at all."""

    def __init__(self, job: str) -> None:
        self.chance = random.Random(SEED)  # noqa: S311 - repeatable
        self.job = job

    def value(self, depth: int = 0) -> Any:
        chance = self.chance
        match chance.randrange(5 if depth < 5 else 3):
            case 0 | 1:
                return chance.choice(WORDS)
            case 2:
                return chance.choice(NUMBERS)
            case 3:
                return [self.value(depth + 1) for _ in range(chance.randrange(4))]
        return {
            chance.choice(WORDS): self.value(depth + 1)
            for _ in range(chance.randrange(5))
        }

    def changed(self, value: Any) -> Any:
        chance = self.chance
        if chance.random() < 0.08:
            return self.value()
        if isinstance(value, list):
            return [self.changed(one) for one in value if chance.random() > 0.05]
        if not isinstance(value, dict):
            return value
        return {
            chance.choice(WORDS) if chance.random() < 0.04 else name: self.changed(one)
            for name, one in value.items()
            if chance.random() > 0.04
        }

    def body(self, path: str) -> bytes:
        count = self.chance.randrange(4)
        jobs = [self.changed(self.chance.choice(GOOD)) for _ in range(count + 1)]
        value = jobs[0] if path == "/v1/jobs" else self.changed({"jobs": jobs[1:]})
        body = json.dumps(value, ensure_ascii=self.chance.random() < 0.5)
        encoded = body.encode("utf-8", "surrogatepass")
        if self.chance.random() < 0.1:
            at = self.chance.randrange(len(encoded) + 1)
            encoded = encoded[:at] + self.chance.randbytes(1) + encoded[at:]
        return encoded

    def request(self, client: httpx2.AsyncClient, seat: Seat) -> httpx2.Request:
        chance, headers = self.chance, dict(seat.headers)
        if chance.random() < 0.2:
            headers["traceparent"] = "zz-" + "x" * 50
        if chance.random() < 0.7:
            path = chance.choice(("/v1/jobs", "/v1/batches"))
            headers["Content-Type"] = "application/json"
            if chance.random() < 0.1:
                headers["Idempotency-Key"] = chance.choice("abc")
            return client.build_request(
                "POST", path, content=self.body(path), headers=headers
            )
        path = chance.choice(PATHS.split()).format(job=self.job)
        pairs = [f"{chance.choice(NAMES)}={chance.choice(VALUES)}" for _ in range(2)]
        address = f"{path}?{'&'.join(pairs[: chance.randrange(3)])}"
        return client.build_request(chance.choice(METHODS), address, headers=headers)


@pytest.mark.timeout(60 + COUNT)
async def test_hostile_requests_are_answered_and_never_by_a_defect(live: Live) -> None:
    seat = await live.seat("submit", "read", "payloads", "operate")
    hostile = Hostile(str(await live.submitted(seat)))
    statuses: set[int] = set()

    async def send() -> None:
        request = hostile.request(live.client, seat)
        answer = await live.client.send(request)
        statuses.add(answer.status_code)
        told = (request.method, str(request.url), request.content[:2000], answer.text)
        assert answer.status_code < 500, told
        assert "Traceback" not in answer.text, told
        if answer.status_code >= 400 and request.method != "HEAD":
            assert answer.json()["code"], told

    for _ in range(COUNT // 6):
        await asyncio.gather(*(send() for _ in range(6)))
    assert {200, 202, 400, 404, 405, 422} <= statuses
