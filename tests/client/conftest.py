"""Both clients through one door, and the gateway they speak to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmgine_workers import AsyncClient, Client
from tests.gateway.conftest import Live, Seat, live, live_settings

__all__ = ["live", "live_settings"]


class Face:
    """A client of either kind: calls are awaited, lists and streams come whole."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        async def called(*args: Any, **more: Any) -> Any:
            if isinstance(self.client, Client):
                return await asyncio.to_thread(lambda: _whole(method(*args, **more)))
            answer = method(*args, **more)
            if hasattr(answer, "__aiter__"):
                return [item async for item in answer]
            return await answer

        return called


def _whole(answer: Any) -> Any:
    return list(answer) if hasattr(answer, "__next__") else answer


@pytest.fixture(params=[Client, AsyncClient], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type[Client | AsyncClient]:
    found: type[Client | AsyncClient] = request.param
    return found


@pytest.fixture
async def seat(live: Live) -> Seat:
    """A new tenant's key for everything that clients do."""
    return await live.seat("submit", "read")


@pytest.fixture
async def client(
    kind: type[Client | AsyncClient], live: Live, seat: Seat
) -> AsyncIterator[Face]:
    face = Face(kind(live.url, seat.text, retry_s=5))
    yield face
    await face.close()
