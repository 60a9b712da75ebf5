from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from gateway.app import create_app, serve
from llmgine_workers.errors import ConfigurationError
from llmgine_workers.settings import Settings
from tests.gateway.conftest import MAX_BODY, Live, Seat, served

SERVE = """
import sys, logging
from llmgine_workers.settings import Settings
from gateway.app import create_app, serve
logging.basicConfig()
serve(Settings.model_validate_json(sys.stdin.read()), {})
print("stopped cleanly", flush=True)
"""
BOUND_S = 15


@dataclass(frozen=True)
class Process:
    """A gateway in a process of its own."""

    port: int
    running: asyncio.subprocess.Process
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ended(self) -> tuple[int, str]:
        """Its exit status and what it printed; the rest of it is a test's failure."""
        async with asyncio.timeout(BOUND_S):
            status = await self.running.wait()
        return status, self.output.read_text()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def gateway_process(settings: Settings, folder: Path) -> AsyncIterator[Process]:
    port = free_port()
    tree = settings.model_dump()
    tree["gateway"]["listen"] = f"127.0.0.1:{port}"
    output = folder / "output"  # a pipe that nobody empties would stop it
    with output.open("wb") as written:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE,
            stdin=subprocess.PIPE, stdout=written, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        assert running.stdin is not None
        running.stdin.write(json.dumps(tree).encode())
        running.stdin.close()
        process = Process(port, running, output)
        await is_up(process)
        yield process
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def is_up(process: Process) -> None:
    async with asyncio.timeout(BOUND_S), httpx2.AsyncClient() as client:
        while process.running.returncode is None:
            try:
                if (await client.get(f"{process.url}/readyz")).status_code == 200:
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.05)
    raise AssertionError(await process.ended())


@pytest.mark.integration
async def test_sigterm_ends_waits_and_streams_and_the_process(
    live: Live, live_settings: Settings, tmp_path: Path
) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    async with (
        gateway_process(live_settings, tmp_path) as process,
        httpx2.AsyncClient(base_url=process.url, timeout=BOUND_S) as client,
    ):
        path = f"/v1/jobs/{job}"
        waiting = asyncio.ensure_future(
            client.get(path, params={"wait": 60}, headers=seat.headers)
        )
        async with client.stream("GET", f"{path}/events", headers=seat.headers) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "id: 1"
            process.running.send_signal(signal.SIGTERM)
            async with asyncio.timeout(BOUND_S):
                assert "event: step.queued" in [line async for line in lines]
        assert (await waiting).json()["state"] == "queued"
        status, output = await process.ended()
        assert (status, output.splitlines()[-1]) == (0, "stopped cleanly")


async def exchange(process: Process, request: bytes) -> tuple[bytes, bool]:
    """The answer to raw bytes, and whether the gateway closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
    writer.write(request)
    async with asyncio.timeout(BOUND_S):
        answer = await reader.read()  # to its end: returns when it is closed
    writer.close()
    return answer, reader.at_eof()


def head(seat: Seat, *lines: str) -> bytes:
    first = ("POST /v1/jobs HTTP/1.1", "Host: gateway", "Content-Type: application/json")
    sent = (*first, f"Authorization: {seat.headers['Authorization']}", *lines)
    return "\r\n".join((*sent, "", "")).encode()


@pytest.mark.integration
async def test_a_body_without_end_costs_an_answer_and_the_connection(
    live: Live, live_settings: Settings, tmp_path: Path
) -> None:
    seat = await live.seat("submit")
    chunk = b"%x\r\n" % 8192 + b" " * 8192 + b"\r\n"
    async with gateway_process(live_settings, tmp_path) as process:
        for request in (
            head(seat, "Transfer-Encoding: chunked") + chunk * (MAX_BODY // 8192 + 1),
            head(seat, f"Content-Length: {MAX_BODY + 1}"),
        ):
            answer, closed = await exchange(process, request)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"body_too_large" in answer
            assert closed
        smuggled = (
            head(seat, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
        )
        answer, closed = await exchange(process, smuggled)
        assert answer.startswith(b"HTTP/1.1 400")
        assert closed


@pytest.mark.integration
async def test_a_ledger_that_is_away_is_a_503_and_not_a_dead_gateway(
    live: Live, live_settings: Settings
) -> None:
    tree = live_settings.model_dump()
    tree["ledger"]["url"] = f"postgresql://127.0.0.1:{free_port()}/nothing"
    settings = Settings.model_validate(tree)
    seat = await live.seat("submit")
    app = create_app(settings, {})
    async with (
        app.router.lifespan_context(app),
        served(app) as url,
        httpx2.AsyncClient(base_url=url, timeout=BOUND_S) as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        for answer in (
            await client.get("/readyz"),
            await client.post("/v1/jobs", json={"chain": "a"}, headers=seat.headers),
        ):
            assert answer.status_code == 503
            assert answer.json()["code"] == "ledger_unavailable"
            assert int(answer.headers["retry-after"]) > 0


def test_the_gateway_never_loads_a_providers_sdk() -> None:
    code = (
        "import sys, gateway.app\n"
        "sdks = 'openai', 'anthropic', 'celery'\n"
        "print([name for name in sdks if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    "listen", ["nowhere", "127.0.0.1:port", "127.0.0.1:99999", "256.0.0.1:80"]
)
def test_an_address_that_cannot_be_listened_on_is_a_configuration_error(
    listen: str,
) -> None:
    settings = Settings.model_validate({"gateway": {"listen": listen}})
    with pytest.raises(ConfigurationError, match=r"gateway\.listen"):
        serve(settings, {})
