"""Holding a conversation of the protocol by hand, without network and clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import httpx2

from llmgine_workers.client.calls import Call
from llmgine_workers.client.protocol import Protocol, Talk

T = TypeVar("T")
Said = httpx2.Response | Exception

JOB: dict[str, Any] = {
    "id": "0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11", "tenant": "acme", "batch": None,
    "forked_from": None, "replays": 0, "dead_letter": None,
    "chain": {"name": "summarize", "version": "sha256:9f2c41d07a"},
    "metadata": {"order": "A-17"}, "simulated": False, "state": "succeeded",
    "waiting": None, "inputs": {"text": "..."}, "output": "Prices rose.", "error": None,
    "progress": {
        "total": 2, "queued": 0, "running": 0, "waiting": 0,
        "succeeded": 2, "failed": 0, "skipped": 0, "cancelled": 0,
    },
    "usage": {
        "calls": 2, "input_tokens": 812, "cached_input_tokens": 0,
        "output_tokens": 164, "reasoning_tokens": 0,
    },
    "cost_usd": 0.000734, "possible_duplicate_usd": 0.0,
    "options": {
        "priority": "normal", "timeout_s": 600.0, "max_attempts": 5,
        "max_cost_usd": 0.05, "stream": True, "webhook": None,
    },
    "created_at": "2026-11-20T12:00:00.000Z", "started_at": "2026-11-20T12:00:00.012Z",
    "finished_at": "2026-11-20T12:00:02.410Z", "deadline_at": "2026-11-20T12:10:00.000Z",
    "links": {"self": "/v1/jobs/0193", "steps": "/s", "events": "/e"},
}  # fmt: skip
RUNNING = {**JOB, "state": "running", "output": None, "finished_at": None}
FAILED = {
    **JOB, "state": "failed", "output": None,
    "error": {"code": "provider_overloaded", "message": "too busy", "step": "draft",
              "attempts": 5, "exhausted": True, "status": 529},
}  # fmt: skip

URL = "http://gateway:8080"


def protocol(retry_s: float = 30.0) -> Protocol:
    return Protocol(URL, retry_s)


def answer(document: Any, status: int = 200, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json=document, headers=named)


def problem(status: int, code: str, **headers: str) -> httpx2.Response:
    body = {"code": code, "detail": "no", "request_id": "0193", "errors": []}
    return answer(body, status, **headers)


def lost() -> httpx2.ReadError:
    return httpx2.ReadError("connection reset")


def held(talk: Talk[T], said: Iterable[Said]) -> tuple[T, list[Call]]:
    """What the caller is answered, and every request that was made for it."""
    asked = []
    try:
        call = next(talk)
        for one in said:
            asked.append(call)
            call = talk.throw(one) if isinstance(one, Exception) else talk.send(one)
    except StopIteration as end:
        return end.value, asked
    raise AssertionError(f"it goes on with {call}")
