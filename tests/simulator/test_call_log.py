"""The witness: who called, what was sent, how it ended, even when somebody dies."""

import asyncio
import hashlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmgine_workers.simulator import Simulator, read_log
from tests.simulator.conftest import ASK, Start, ask_openai, identity, openai_sdk, until

CLIENT = """
import asyncio, sys, aiohttp
async def main(url, calls):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def one(n):
            body = {"model": "m", "stream": n % 2 == 0,
                    "messages": [{"role": "user", "content": "[[sim:latency=60]]"}]}
            async with session.post(url + "/v1/chat/completions", json=body,
                                    headers={"x-llmgine-job": str(n)}) as response:
                await response.read()
        await asyncio.gather(*map(one, range(calls)))
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def get(simulator: Simulator, path: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{simulator.url}/_sim/{path}") as response,
    ):
        return await response.json()


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_recorded_with_who_what_and_when(
    simulator: Simulator, wire: str, stream: bool
) -> None:
    before = time.monotonic(), time.time()
    who = identity(job="j7", step="notes.3.page", attempt=2, fence=5)
    await ASK[wire](simulator, "Hi", extra_headers=who, stream=stream)
    [call] = simulator.calls
    assert (call.n, call.wire, call.stream) == (1, wire, stream)
    assert (call.job, call.step, call.attempt, call.fence) == ("j7", "notes.3.page", 2, 5)
    assert (call.status, call.fault, call.ended) == (200, None, "completed")
    assert call.first_byte_mono is not None
    assert call.ended_mono is not None
    assert before[0] <= call.started_mono <= call.first_byte_mono <= call.ended_mono
    assert call.ended_at is not None
    assert before[1] - 0.1 <= call.started_at <= call.ended_at <= time.time() + 0.1


async def test_hashes_are_those_of_the_texts(simulator: Simulator) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Ünïcode?"}]},
    ]
    reply = await ask_openai(simulator, "", messages=messages)
    [call] = simulator.calls
    prompt = "Be brief.\nÜnïcode?"
    assert call.prompt_sha256 == hashlib.sha256(prompt.encode()).hexdigest()
    text = reply.choices[0].message.content
    assert call.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert call.output_tokens == reply.usage.completion_tokens
    assert call.input_tokens == reply.usage.prompt_tokens


async def test_tool_calls_are_named(simulator: Simulator) -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    await ask_openai(simulator, "Hi", tools=[tool])
    assert simulator.calls[0].tool_calls == ["look_up"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_client_that_leaves_is_seen_at_once(
    simulator: Simulator, stream: bool
) -> None:
    call = asyncio.create_task(ask_openai(simulator, "[[sim:latency=60]]", stream=stream))
    await until(lambda: len(simulator.calls) == 1)
    assert simulator.calls[0].ended is None
    call.cancel()
    left = time.monotonic()
    await until(lambda: simulator.calls[0].ended is not None)
    assert simulator.calls[0].ended == "cut"
    assert simulator.calls[0].status is None
    ended = simulator.calls[0].ended_mono
    assert ended is not None
    assert ended - left < 1.0


async def test_a_stream_left_in_the_middle_is_cut_after_some_chunks(
    simulator: Simulator,
) -> None:
    prompt = (
        "[[sim:latency=60]][[sim:first_token=10ms]][[sim:chunks=4000]][[sim:tokens=2000]]"
    )
    client = openai_sdk(simulator)
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": prompt}], stream=True
    )
    seen = 0
    async for _chunk in stream:
        seen += 1
        if seen == 5:
            break
    await stream.close()
    await until(lambda: simulator.calls[0].ended is not None)
    [call] = simulator.calls
    assert call.ended == "cut"
    assert call.status == 200
    assert 3 <= call.chunks_sent < 4000


async def test_a_killed_client_leaves_every_call_cut(simulator: Simulator) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, simulator.url, "30"
    )
    await until(lambda: simulator.summary()["open"] == 30, 20)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await until(lambda: simulator.summary()["open"] == 0)
    assert simulator.summary()["cut"] == 30
    assert {call.job for call in simulator.calls} == {str(n) for n in range(30)}


async def test_the_file_tells_of_open_calls_before_they_end(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    simulator = await start(log=path)
    call = asyncio.create_task(ask_openai(simulator, "[[sim:latency=60]]"))
    await until(lambda: path.read_text().count("\n") == 1)
    [seen] = read_log(path)
    assert seen.ended is None
    assert seen.model == "gpt-5-mini"
    call.cancel()
    await until(lambda: path.read_text().count("\n") == 2)
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["start", "end"]
    assert read_log(path) == simulator.calls


async def test_stopping_the_simulator_cuts_what_is_open(
    tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "calls.jsonl"
    simulator = await start(log=path)
    calls = [
        asyncio.create_task(ask_openai(simulator, "[[sim:latency=60]]", stream=stream))
        for stream in (False, True)
    ]
    await until(lambda: len(simulator.calls) == 2)
    await simulator.stop()
    assert [call.ended for call in read_log(path)] == ["cut", "cut"]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)


async def test_two_runs_share_a_file_and_a_torn_last_line_is_passed_over(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    for _ in range(2):
        simulator = await start(log=path)
        await ask_openai(simulator, "Hi")
        await simulator.stop()
    with path.open("a") as file:
        file.write('{"event":"start","n":9')
    calls = read_log(path)
    assert [call.n for call in calls] == [1, 1]
    assert len({call.sim for call in calls}) == 2


async def test_calls_can_be_asked_for_by_number_and_by_field(
    simulator: Simulator,
) -> None:
    for job in ("a", "b", "b"):
        await ask_openai(simulator, "Hi", extra_headers=identity(job=job))
    assert [c["n"] for c in (await get(simulator, "calls?since=1"))["calls"]] == [2, 3]
    answer = await get(simulator, "calls?job=b&ended=completed")
    assert [call["n"] for call in answer["calls"]] == [2, 3]
    assert answer["last"] == 3
    assert "error" in await get(simulator, "calls?color=red")
    assert "error" in await get(simulator, "calls?since=x")


async def test_the_summary_counts_and_names_what_was_done_twice(
    simulator: Simulator,
) -> None:
    replies = [
        await ask_openai(simulator, "Hi", extra_headers=identity(job=job))
        for job in ("a", "b", "b")
    ]
    summary = await get(simulator, "summary")
    assert summary == simulator.summary()
    assert (summary["calls"], summary["completed"], summary["open"]) == (3, 3, 0)
    assert summary["completed_twice"] == [["b", "draft"]]
    billed = sum(reply.usage.completion_tokens for reply in replies)
    assert summary["output_tokens"] == billed
    assert summary["by_wire"] == {"openai": 3}


async def test_a_body_that_never_arrives_is_no_call(simulator: Simulator) -> None:
    host, port = simulator.url.removeprefix("http://").split(":")
    _reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
    writer.write(head.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await ask_openai(simulator, "Hi")
    assert [call.wire for call in simulator.calls] == ["openai"]


async def test_it_carries_400_calls_at_once(start: Start) -> None:
    simulator = await start()
    text = "[[sim:latency=500ms]] " + "about harvests and markets " * 740
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(n: int) -> int:
            messages = [{"role": "user", "content": f"{n} {text}"}]
            body = {"model": "m", "max_tokens": 500, "messages": messages}
            async with session.post(
                f"{simulator.url}/v1/messages", json=body
            ) as response:
                await response.read()
                return response.status

        statuses = await asyncio.gather(*map(one, range(400)))
    assert set(statuses) == {200}
    assert simulator.summary()["completed"] == 400
    assert simulator.summary()["peak_open"] >= 200
