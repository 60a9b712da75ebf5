"""The simulator as a process of its own."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from llmgine_workers.simulator import read_log
from llmgine_workers.simulator.cli import main
from tests.simulator.conftest import until

MODULE = [sys.executable, "-m", "llmgine_workers.simulator"]
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[tuple[Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *MODULE, *options, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("simulator listening on http://127.0.0.1:")
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def post(url: str, prompt: str) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        await response.read()
        return response.status


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_stops_cleanly(
    tmp_path: Path, stop: signal.Signals
) -> None:
    log = tmp_path / "calls.jsonl"
    options = ["--rpm", "3", "--window", "60s", "--fault", "hang=0", "--model", "m"]
    async with running("--log", str(log), *options) as (process, url):
        assert await post(url, "Hi") == 200
        assert await post(url, "[[sim:fault=503]]") == 503
        hanging = asyncio.create_task(post(url, "[[sim:fault=hang]]"))
        await until(lambda: len(read_log(log)) == 3)
        assert await post(url, "Hi") == 429
        process.send_signal(stop)
        async with asyncio.timeout(5):
            assert await process.wait() == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        with pytest.raises(aiohttp.ClientError):
            await hanging
    ended = [call.ended for call in read_log(log)]
    assert ended == ["completed", "refused", "cut", "refused"]


async def test_a_killed_simulator_has_told_what_it_saw(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    async with running("--log", str(log)) as (process, url):
        await post(url, "Hi")
        hanging = asyncio.create_task(post(url, "[[sim:fault=hang]]"))
        await until(lambda: len(read_log(log)) == 2)
        process.kill()
        await process.wait()
        with pytest.raises(aiohttp.ClientError):
            await hanging
    assert [call.ended for call in read_log(log)] == ["completed", None]


@pytest.mark.parametrize(
    "options",
    [
        ["--latency", "soon"],
        ["--fault", "nonsense=1"],
        ["--fault", "500"],
        ["--fault", "500=2"],
        ["--fault", "500=x"],
        ["--chunks", "0"],
        ["--window", "x"],
        ["--nonsense"],
    ],
)
def test_wrong_usage_exits_with_2(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_it_cannot_open_exits_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere" / "calls.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (["--port", str(port)], ["--log", str(missing)]):
            assert main(options) == 78
            assert capsys.readouterr().err.startswith("the simulator cannot start: ")


async def test_it_imports_nothing_of_the_project_beside_itself() -> None:
    script = """
import sys, llmgine_workers.simulator
names = ("llmgine_workers", "chains", "gateway")
ours = [m for m in sys.modules if m.split(".")[0] in names]
print([m for m in ours if not m.startswith("llmgine_workers.simulator")])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=PIPE, cwd=ROOT
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "['llmgine_workers']"
