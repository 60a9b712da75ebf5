"""A gateway in a process of its own that is killed and comes back at its address."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from llmgine_workers.settings import Settings

BOUND_S = 20
_SERVE = """
import sys
from llmgine_workers.settings import Settings
from gateway.app import serve
serve(Settings.model_validate_json(sys.stdin.read()), {})
"""


class Mortal:
    """The process, its address, and how often it died."""

    def __init__(self, settings: Settings, output: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        tree = settings.model_dump()
        tree["gateway"]["listen"] = f"127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{port}"
        self.deaths = 0
        self._settings = json.dumps(tree).encode()
        self._output = output
        self._running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it takes jobs."""
        with self._output.open("ab") as written:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _SERVE,
                stdin=subprocess.PIPE, stdout=written, stderr=subprocess.STDOUT,
            )  # fmt: skip
        assert self._running.stdin is not None
        self._running.stdin.write(self._settings)
        self._running.stdin.close()
        async with asyncio.timeout(BOUND_S), httpx2.AsyncClient() as client:
            while not await self._is_ready(client):
                assert self._running.returncode is None, self._output.read_text()
                await asyncio.sleep(0.05)

    async def _is_ready(self, client: httpx2.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    async def kill(self) -> None:
        """SIGKILL: no answer is finished, no connection closed with a word."""
        assert self._running is not None
        if self._running.returncode is None:
            self._running.kill()
        await self._running.wait()
        self.deaths += 1


@asynccontextmanager
async def mortal_gateway(settings: Settings, folder: Path) -> AsyncIterator[Mortal]:
    """Running; killed at the end."""
    gateway = Mortal(settings, folder / "output")
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.kill()
