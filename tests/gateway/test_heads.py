from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from gateway.heads import MAX_HEAD_BYTES, MAX_HEADERS
from llmgine_workers.settings import Settings
from tests.gateway.conftest import Live, StandIn
from tests.gateway.test_process import BOUND_S, Process, gateway_process

ENDLESS = 64 * 1024**2


async def told(standin: StandIn, path: str, headers: list[tuple[str, str]]) -> int:
    answer = await standin.client.get(path, headers=headers)
    if answer.status_code == 431:
        assert answer.json()["code"] == "headers_too_large"
        assert answer.headers["connection"] == "close"
    return answer.status_code


async def test_a_head_up_to_its_bounds_is_read_and_one_beyond_is_not(
    standin: StandIn,
) -> None:
    # httpx adds headers of its own: host, accept, user-agent and so on.
    many = [(f"x-{n}", "y") for n in range(MAX_HEADERS - 10)]
    assert await told(standin, "/healthz", many) == 200
    assert await told(standin, "/healthz", many * 2) == 431
    large = [("x", "y" * (MAX_HEAD_BYTES - 1000))]
    assert await told(standin, "/healthz", large) == 200
    assert await told(standin, "/healthz", [("x", "y" * MAX_HEAD_BYTES)]) == 431
    assert await told(standin, f"/v1/jobs/{'x' * MAX_HEAD_BYTES}", []) == 431
    assert await told(standin, f"/healthz?{'x' * MAX_HEAD_BYTES}", []) == 431


@asynccontextmanager
async def connected(
    process: Process,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
    try:
        async with asyncio.timeout(BOUND_S):
            yield reader, writer
    finally:
        writer.close()


async def sent_until_closed(process: Process, begin: bytes, piece: bytes) -> int:
    """How many bytes the gateway took before it closed the connection."""
    sent = 0
    async with connected(process) as (_, writer):
        writer.write(begin)
        try:
            while sent < ENDLESS:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        except ConnectionError:
            pass
    return sent


@pytest.mark.integration
async def test_heads_and_trailers_without_end_cost_the_connection(
    live: Live, live_settings: Settings, tmp_path: Path
) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n"
    chunked = b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    many, one = b"x: y\r\n" * 1000, b"y" * 64 * 1024
    async with gateway_process(live_settings, tmp_path) as process:
        for begin, piece in (
            (b"GET /", one),
            (get, many),
            (get + b"x: ", one),
            (chunked, many),
            (chunked + b"x: ", one),
        ):
            # What the sockets hold in between was sent as well.
            assert await sent_until_closed(process, begin, piece) < ENDLESS / 4
        async with httpx2.AsyncClient(base_url=process.url) as client:
            assert (await client.get("/healthz")).status_code == 200


@pytest.mark.integration
async def test_a_head_that_is_too_large_is_told_so_by_the_process(
    live: Live, live_settings: Settings, tmp_path: Path
) -> None:
    async with gateway_process(live_settings, tmp_path) as process:
        async with connected(process) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b"headers_too_large" in answer
        async with connected(process) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nx: a\x00b\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
