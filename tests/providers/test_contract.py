"""What every provider promises, whatever its wire format."""

from __future__ import annotations

import asyncio
import json
import socket
from hashlib import sha256

import pytest

from llmgine_workers.llm import CallFailed, Message
from llmgine_workers.providers import lines
from llmgine_workers.simulator import Simulator
from tests.providers.conftest import JOB, Call, Pieces, Side, until

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer"}, "notes": {"type": "string"}},
    "required": ["score", "notes"],
}


@pytest.fixture(params=["plain", "streamed"])
def pieces(request: pytest.FixtureRequest) -> Pieces | None:
    return Pieces() if request.param == "streamed" else None


async def test_answers_with_text_usage_and_ids(
    call: Call, simulator: Simulator, pieces: Pieces | None, side: Side
) -> None:
    answer = await call("Say something long.", on_delta=pieces)
    seen = simulator.calls[-1]
    assert sha256(answer.text.encode()).hexdigest() == seen.text_sha256
    assert (answer.finish_reason, answer.status) == ("stop", 200)
    assert answer.model == side.model
    assert answer.request_id == seen.request_id
    assert answer.usage.calls == 1
    assert answer.usage.input_tokens == seen.input_tokens > 0
    assert answer.usage.output_tokens == seen.output_tokens > 0
    assert answer.usage.cached_input_tokens == seen.cached_input_tokens > 0
    assert answer.usage.reasoning_tokens == seen.reasoning_tokens


async def test_streams_only_when_asked_and_every_piece_in_order(
    call: Call, simulator: Simulator, pieces: Pieces | None
) -> None:
    answer = await call("Say something long.", on_delta=pieces)
    assert simulator.calls[-1].stream is (pieces is not None)
    if pieces is not None:
        assert pieces.text == answer.text
        assert len(pieces.deltas) > 5


async def test_sends_the_headers_that_name_the_attempt(
    call: Call, simulator: Simulator
) -> None:
    await call("Hello there.")
    seen = simulator.calls[-1]
    assert (seen.job, seen.step) == (JOB["x-llmgine-job"], JOB["x-llmgine-step"])
    assert (str(seen.attempt), str(seen.fence)) == ("2", "7")


async def test_stops_at_max_tokens_and_says_so(call: Call, pieces: Pieces | None) -> None:
    answer = await call("[[sim:tokens=100]] Go on.", max_tokens=5, on_delta=pieces)
    assert answer.finish_reason == "length"
    assert answer.usage.output_tokens <= 5


async def test_a_schema_makes_the_text_json(call: Call, pieces: Pieces | None) -> None:
    answer = await call("Review this.", schema=SCHEMA, on_delta=pieces)
    assert set(json.loads(answer.text)) == {"score", "notes"}


async def test_takes_a_system_text_a_conversation_and_parameters(call: Call) -> None:
    answer = await call(
        "unused",
        system="You are terse.",
        messages=(
            Message("user", "Hi"),
            Message("assistant", "Yes?"),
            Message("user", "Go"),
        ),
        parameters={"temperature": 0.1, "stop": "END", "nonsense": 1},
    )
    assert answer.text


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("400", "provider_rejected", 400),
        ("401", "provider_auth", 401),
        ("403", "provider_auth", 403),
        ("404", "provider_rejected", 404),
        ("413", "context_too_long", 413),
        ("500", "provider_unavailable", 500),
        ("502", "provider_unavailable", 502),
        ("503", "provider_unavailable", 503),
        ("504", "provider_unavailable", 504),
        ("529", "provider_overloaded", 529),
        ("quota", "provider_quota", 429),
        ("context", "context_too_long", 400),
    ],
)
async def test_every_error_status_has_a_code(
    call: Call, fault: str, code: str, status: int, pieces: Pieces | None
) -> None:
    with pytest.raises(CallFailed) as caught:
        await call(f"[[sim:fault={fault}]] My secret is 4711.", on_delta=pieces)
    failure = caught.value.failure
    assert (failure.code, failure.status) == (code, status)
    assert failure.request_id
    assert failure.model is not None
    assert failure.model.split("/")[0] in failure.message
    assert caught.value.before_first_byte
    assert caught.value.usage is None


async def test_a_rate_limit_says_how_long_to_wait(call: Call) -> None:
    with pytest.raises(CallFailed) as caught:
        await call("[[sim:fault=429 retry_after=3]] Hi")
    assert caught.value.failure.code == "provider_rate_limited"
    assert caught.value.retry_after_s == pytest.approx(3, abs=1)


async def test_messages_name_neither_key_nor_prompt(call: Call) -> None:
    for fault in ("400", "401", "429", "500", "context", "quota"):
        with pytest.raises(CallFailed) as caught:
            await call(f"[[sim:fault={fault}]] the secret plan of the emperor")
        assert len(caught.value.failure.message) < 300
        assert "sk-test" not in caught.value.failure.message
        assert "secret plan" not in caught.value.failure.message


@pytest.mark.parametrize(
    ("fault", "plain", "streamed"),
    [
        ("reset", "provider_unavailable", "provider_unavailable"),
        ("cut", "provider_bad_response", "stream_cut"),
        ("truncated", "provider_bad_response", "stream_cut"),
        ("garbage", "provider_bad_response", "provider_bad_response"),
        ("empty", "provider_bad_response", "provider_bad_response"),
        ("error_in_stream", "provider_unavailable", None),
    ],
)
async def test_every_broken_transport_has_a_code(
    call: Call,
    side: Side,
    fault: str,
    plain: str,
    streamed: str | None,
    pieces: Pieces | None,
) -> None:
    in_stream = {"openai": "provider_unavailable", "anthropic": "provider_overloaded"}
    code = plain if pieces is None else streamed or in_stream[side.name]
    with pytest.raises(CallFailed) as caught:
        await call(f"[[sim:fault={fault}]] Hi", on_delta=pieces)
    assert caught.value.failure.code == code
    nothing_came = fault == "reset" or (fault, pieces) == ("error_in_stream", None)
    # An empty body has no first byte either.
    assert caught.value.before_first_byte is (nothing_came or fault == "empty")


async def test_a_cut_stream_is_billed_for_what_came(call: Call) -> None:
    pieces = Pieces()
    with pytest.raises(CallFailed) as caught:
        await call("[[sim:fault=cut]] Say something long.", on_delta=pieces)
    usage = caught.value.usage
    assert usage is not None
    assert usage.input_tokens > 0
    assert 0 < usage.output_tokens < 300


async def test_the_time_of_a_whole_call_is_bounded(
    call: Call, simulator: Simulator, pieces: Pieces | None
) -> None:
    with pytest.raises(CallFailed) as caught:
        await call("[[sim:fault=hang]] Hi", timeout_s=0.1, on_delta=pieces)
    assert caught.value.failure.code == "step_timeout"
    assert caught.value.before_first_byte
    slow = "[[sim:latency=30s]] [[sim:first_token=10ms]] Hi"
    with pytest.raises(CallFailed) as caught:
        await call(slow, timeout_s=0.5, on_delta=pieces)
    assert caught.value.failure.code == "step_timeout"
    assert caught.value.before_first_byte is (pieces is None)


async def test_a_silent_stream_is_given_up_but_a_slow_plain_answer_is_not(
    side: Side, simulator: Simulator
) -> None:
    provider = side.open(simulator.url, idle_s=0.1)
    slow = side.request("[[sim:latency=300ms]] [[sim:first_token=299ms]] Hi")
    with pytest.raises(CallFailed) as caught:
        await provider.call(slow, timeout_s=5, headers={}, on_delta=Pieces())
    assert caught.value.failure.code == "provider_timeout"
    assert (await provider.call(slow, timeout_s=5, headers={})).text
    await provider.close()


async def test_cancelling_closes_the_call(call: Call, simulator: Simulator) -> None:
    before = len(simulator.calls)
    task = asyncio.ensure_future(call("[[sim:latency=30s]] Hi", on_delta=Pieces()))
    await until(lambda: len(simulator.calls) > before)
    seen = simulator.calls[-1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: seen.ended is not None)
    assert seen.ended == "cut"


async def test_an_error_of_the_listener_is_its_own(call: Call) -> None:
    class BrokenListener(Pieces):
        async def __call__(self, delta: object) -> None:
            raise ConnectionResetError("the listener's Redis")

    with pytest.raises(ConnectionResetError, match="the listener's Redis"):
        await call("Hi", on_delta=BrokenListener())


async def test_nobody_listening_is_unreachable(side: Side) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        provider = side.open(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(CallFailed) as caught:
            await provider.call(side.request("Hi"), timeout_s=5, headers={})
    await provider.close()
    assert caught.value.failure.code == "provider_unreachable"
    assert caught.value.before_first_byte


async def test_an_unknown_name_is_unreachable(side: Side) -> None:
    provider = side.open("http://no-such-host.invalid")
    with pytest.raises(CallFailed) as caught:
        await provider.call(side.request("Hi"), timeout_s=5, headers={})
    await provider.close()
    assert caught.value.failure.code == "provider_unreachable"


async def test_a_host_that_does_not_accept_is_unreachable(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CONNECT_S", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]  # they fill the kernel's backlog
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        provider = side.open(f"http://127.0.0.1:{address[1]}")
        with pytest.raises(CallFailed) as caught:
            await provider.call(side.request("Hi"), timeout_s=5, headers={})
        await provider.close()
        for one in waiting:
            one.close()
    assert caught.value.failure.code == "provider_unreachable"


async def test_hundreds_of_calls_at_once_share_one_provider(
    call: Call, simulator: Simulator
) -> None:
    before = len(simulator.calls)
    answers = await asyncio.gather(
        *(call(f"Number {n}", on_delta=Pieces() if n % 2 else None) for n in range(150))
    )
    assert all(answer.finish_reason == "stop" for answer in answers)
    assert len(simulator.calls) == before + 150
