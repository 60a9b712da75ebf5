"""Faults strike when, how often and in the way they were asked to."""

from typing import Any

import aiohttp
import anthropic
import httpx2
import openai
import pytest

from llmgine_workers.simulator import FaultRule, Simulator
from llmgine_workers.simulator.directives import read_directives
from llmgine_workers.simulator.faults import KINDS, STATUS_OF
from llmgine_workers.simulator.prompt import BadRequestError
from tests.simulator.conftest import (
    ASK,
    Start,
    ask_anthropic,
    ask_openai,
    identity,
    until,
)

WIRES = pytest.mark.parametrize("wire", ["openai", "anthropic"])
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
SDK = {"openai": openai, "anthropic": anthropic}


async def ended(simulator: Simulator, n: int = 1) -> str | None:
    """How call `n` ended, once it has."""
    await until(lambda: len(simulator.calls) >= n and bool(simulator.calls[n - 1].ended))
    return simulator.calls[n - 1].ended


@WIRES
@BOTH_WAYS
@pytest.mark.parametrize("kind", sorted(STATUS_OF))
async def test_a_status_fault_is_an_error_of_the_service(
    simulator: Simulator, wire: str, stream: bool, kind: str
) -> None:
    with pytest.raises(SDK[wire].APIStatusError) as caught:
        await ASK[wire](simulator, f"[[sim:fault={kind}]] Hi", stream=stream)
    assert caught.value.status_code == STATUS_OF[kind]
    assert isinstance(caught.value.body, dict)
    [call] = simulator.calls
    assert (call.status, call.fault, call.ended) == (STATUS_OF[kind], kind, "refused")
    assert call.input_tokens == call.output_tokens == 0


@WIRES
async def test_a_429_says_when_to_come_back(simulator: Simulator, wire: str) -> None:
    with pytest.raises(SDK[wire].RateLimitError) as caught:
        await ASK[wire](simulator, "[[sim:fault=429 retry_after=2.5]]")
    assert caught.value.response.headers["retry-after"] == "3"


async def test_an_empty_account_and_a_long_prompt_have_the_real_codes(
    simulator: Simulator,
) -> None:
    with pytest.raises(openai.RateLimitError) as quota:
        await ask_openai(simulator, "[[sim:fault=quota]]")
    assert quota.value.code == "insufficient_quota"
    with pytest.raises(openai.BadRequestError) as context:
        await ask_openai(simulator, "[[sim:fault=context]]")
    assert context.value.code == "context_length_exceeded"


async def test_an_overloaded_anthropic_says_so(simulator: Simulator) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask_anthropic(simulator, "[[sim:fault=529]]")
    body: Any = caught.value.body
    assert body["error"]["type"] == "overloaded_error"


@WIRES
@BOTH_WAYS
async def test_a_reset_comes_before_any_byte(
    simulator: Simulator, wire: str, stream: bool
) -> None:
    with pytest.raises(SDK[wire].APIConnectionError):
        await ASK[wire](simulator, "[[sim:fault=reset]]", stream=stream)
    assert await ended(simulator) == "cut"
    assert simulator.calls[0].first_byte_mono is None


async def test_a_reset_is_a_tcp_reset(simulator: Simulator) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "[[sim:fault=reset]]"}],
    }
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientOSError) as caught:
            await session.post(f"{simulator.url}/v1/chat/completions", json=body)
    assert isinstance(caught.value, ConnectionResetError) or caught.value.errno == 104


@WIRES
@BOTH_WAYS
async def test_a_cut_connection_breaks_off_in_mid_body(
    simulator: Simulator, wire: str, stream: bool
) -> None:
    with pytest.raises((SDK[wire].APIConnectionError, httpx2.RemoteProtocolError)):
        await ASK[wire](simulator, "[[sim:fault=cut]]", stream=stream)
    assert await ended(simulator) == "cut"
    assert simulator.calls[0].status == 200
    assert simulator.calls[0].chunks_sent == (10 if stream else 0)


async def test_a_truncated_stream_ends_cleanly_without_a_finish_reason(
    simulator: Simulator,
) -> None:
    chunks = await ask_openai(simulator, "[[sim:fault=truncated]]", stream=True)
    assert len(chunks) == 11
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)
    events = await ask_anthropic(simulator, "[[sim:fault=truncated]]", stream=True)
    assert events[-1].type == "content_block_delta"
    assert [call.ended for call in simulator.calls] == ["cut", "cut"]


@WIRES
@BOTH_WAYS
async def test_a_hanging_call_is_cut_when_the_client_gives_up(
    simulator: Simulator, wire: str, stream: bool
) -> None:
    with pytest.raises(SDK[wire].APITimeoutError):
        await ASK[wire](simulator, "[[sim:fault=hang]]", stream=stream, timeout=0.2)
    assert await ended(simulator) == "cut"


@WIRES
@pytest.mark.parametrize("kind", ["garbage", "empty", "truncated"])
async def test_a_spoiled_plain_body_is_no_answer(
    simulator: Simulator, wire: str, kind: str
) -> None:
    try:
        reply = await ASK[wire](simulator, f"[[sim:fault={kind}]]")
    except ValueError:  # the SDKs let the JSON decoder's error through
        reply = ""
    assert not reply or reply.startswith("<html>")
    assert simulator.calls[0].ended == "cut"
    assert simulator.calls[0].status == 200


@WIRES
async def test_a_garbage_stream_is_broken_json(simulator: Simulator, wire: str) -> None:
    with pytest.raises(ValueError, match="Unterminated"):
        await ASK[wire](simulator, "[[sim:fault=garbage]]", stream=True)
    assert await ended(simulator) == "cut"


@WIRES
async def test_an_empty_stream_has_no_events(simulator: Simulator, wire: str) -> None:
    assert await ASK[wire](simulator, "[[sim:fault=empty]]", stream=True) == []
    assert simulator.calls[0].ended == "cut"


@WIRES
async def test_an_error_can_come_in_mid_stream(simulator: Simulator, wire: str) -> None:
    with pytest.raises(SDK[wire].APIError, match=r"(?i)overloaded"):
        await ASK[wire](simulator, "[[sim:fault=error_in_stream]]", stream=True)
    assert await ended(simulator) == "cut"
    assert simulator.calls[0].chunks_sent == 10


@WIRES
@BOTH_WAYS
async def test_a_slow_answer_is_right_but_late(
    simulator: Simulator, wire: str, stream: bool
) -> None:
    await ASK[wire](simulator, "[[sim:fault=slow delay=100ms]]", stream=stream)
    [call] = simulator.calls
    assert (call.ended, call.fault) == ("completed", "slow")
    assert call.ended_mono is not None
    assert call.ended_mono - call.started_mono >= 0.1


async def test_times_counts_per_job_and_step(simulator: Simulator) -> None:
    prompt = "[[sim:fault=500 times=2]] Hi"
    for job in ("j1", "j2"):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await ask_openai(simulator, prompt, extra_headers=identity(job))
        await ask_openai(simulator, prompt, extra_headers=identity(job))


async def test_faults_of_a_prompt_strike_one_after_the_other(
    simulator: Simulator,
) -> None:
    prompt = "[[sim:fault=503 times=1]][[sim:fault=429 times=1]]"
    for status in (503, 429):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask_openai(simulator, prompt)
        assert caught.value.status_code == status
    await ask_openai(simulator, prompt)


async def test_a_directive_can_be_meant_for_one_step(simulator: Simulator) -> None:
    prompt = "[[sim:fault=500 step=review]]"
    await ask_openai(simulator, prompt, extra_headers=identity(step="draft"))
    with pytest.raises(openai.InternalServerError):
        await ask_openai(simulator, prompt, extra_headers=identity(step="review"))


async def test_other_directives_shape_the_answer(simulator: Simulator) -> None:
    reply = await ask_openai(simulator, "[[sim:tokens=500]]")
    assert reply.usage.completion_tokens == 500
    reply = await ask_openai(simulator, r"[[sim:text=Two\nlines \u00e9]]")
    assert reply.choices[0].message.content == "Two\nlines é"
    chunks = await ask_openai(simulator, "[[sim:chunks=3]]", stream=True)
    assert len(chunks) == 5
    await ask_openai(simulator, "[[sim:latency=60ms]]")
    call = simulator.calls[-1]
    assert call.ended_mono is not None
    assert call.ended_mono - call.started_mono >= 0.06


async def test_an_answer_may_hold_what_a_database_refuses(simulator: Simulator) -> None:
    reply = await ask_openai(simulator, r"[[sim:text=a\u0000b\ud800c]]")
    assert reply.choices[0].message.content == "a\x00b\ud800c"
    chunks = await ask_openai(simulator, r"[[sim:text=a\u0000b\ud800c]]", stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "a\x00b\ud800c"
    assert simulator.calls[0].text_sha256 == simulator.calls[1].text_sha256


@pytest.mark.parametrize(
    "wish",
    [
        "fault=501",
        "fault=500 times=0",
        "fault=500 times=x",
        "fault=500 color=red",
        "tokens=-1",
        "latency=soon",
        "nonsense=1",
        "nonsense",
        "fault=500 oops",
    ],
)
async def test_a_directive_that_cannot_be_read_is_refused(
    simulator: Simulator, wish: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="directive"):
        await ask_openai(simulator, f"Hi [[sim:{wish}]]")


def test_a_text_directive_may_hold_brackets() -> None:
    assert read_directives("[[sim:text=[1, [2]]]] x", None).text == "[1, [2]]"
    with pytest.raises(BadRequestError):
        read_directives("[[sim:tool]]", None)


async def test_a_tool_that_was_not_given_cannot_be_wished_for(
    simulator: Simulator,
) -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="not given"):
        await ask_openai(simulator, "[[sim:tool=b]]", tools=[tool])


async def test_a_rule_set_at_run_time_strikes_as_often_as_told(
    simulator: Simulator,
) -> None:
    url = f"{simulator.url}/_sim/faults"
    rule = {"kind": "503", "count": 2, "match": {"step": "draft", "attempt": 1}}
    async with aiohttp.ClientSession() as session:
        async with session.post(url, json=rule) as response:
            assert response.status == 201
            assert (await response.json())["id"] == 1
        await ask_openai(simulator, "Hi", extra_headers=identity(step="review"))
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await ask_openai(simulator, "Hi", extra_headers=identity())
        await ask_openai(simulator, "Hi", extra_headers=identity())
        async with session.get(url) as response:
            [listed] = (await response.json())["faults"]
            assert listed["fired"] == 2


async def test_rules_can_be_lifted(simulator: Simulator) -> None:
    simulator.add_fault(FaultRule("500"))
    second = simulator.add_fault(FaultRule("503"))
    url = f"{simulator.url}/_sim/faults"
    async with aiohttp.ClientSession() as session:
        async with session.delete(f"{url}/{second.id}") as response:
            assert await response.json() == {"removed": 1}
        with pytest.raises(openai.InternalServerError):
            await ask_openai(simulator, "Hi")
        async with session.delete(url) as response:
            assert await response.json() == {"removed": 1}
        async with session.delete(f"{url}/{second.id}") as response:
            assert response.status == 404
    await ask_openai(simulator, "Hi")


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"kind": "nonsense"},
        {"kind": "500", "match": {"color": "red"}},
        {"kind": "500", "count": 0},
        {"kind": "500", "rate": 2},
        {"kind": "500", "fired": 3},
        {"kind": "slow", "delay": "soon"},
        {"kind": "429", "retry_after": -1},
        [],
        "500",
    ],
)
async def test_a_senseless_rule_is_refused(simulator: Simulator, rule: Any) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/_sim/faults", json=rule) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]
    assert not simulator.faults.rules


async def test_rates_strike_their_share_and_the_same_calls_again(start: Start) -> None:
    async def faults(seed: int) -> list[str | None]:
        rates = {"500": 0.3, "503": 0.2}
        simulator = await start(seed=seed, fault_rates=rates)
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        url = f"{simulator.url}/v1/chat/completions"
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                async with session.post(url, json=body) as response:
                    await response.read()
        return [call.fault for call in simulator.calls]

    first = await faults(seed=5)
    assert first == await faults(seed=5)
    assert first != await faults(seed=6)
    assert 40 <= first.count("500") <= 80
    assert 24 <= first.count("503") <= 56


async def test_embeddings_fail_on_demand_too(simulator: Simulator) -> None:
    body = {"model": "e", "input": "[[sim:fault=503]]"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/v1/embeddings", json=body) as response,
    ):
        assert response.status == 503


def test_there_is_a_rule_for_every_kind() -> None:
    assert {FaultRule(kind).kind for kind in KINDS} == KINDS
