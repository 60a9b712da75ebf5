"""Requests and tokens per window: enforced, reported, and free again after it."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import anthropic
import openai
import pytest

from llmgine_workers.simulator import Simulator
from llmgine_workers.simulator.limits import RateLimits, SlidingWindow
from llmgine_workers.simulator.openai_wire import _go_duration
from tests.simulator.conftest import (
    Start,
    anthropic_sdk,
    ask_anthropic,
    ask_openai,
    openai_sdk,
    until,
)


def test_a_window_slides() -> None:
    window = SlidingWindow(3, 60.0)
    for moment in (0.0, 10.0, 20.0):
        assert window.wait_for(1, moment) == 0.0
        window.take(1, moment)
    assert window.wait_for(1, 30.0) == 30.0
    assert window.wait_for(2, 30.0) == 40.0
    assert window.wait_for(4, 30.0) == 60.0
    assert window.wait_for(1, 60.0) == 0.0
    assert window.budget(60.0).remaining == 1
    assert window.budget(60.0).reset_s == 20.0


def test_a_refused_call_uses_up_nothing() -> None:
    limits = RateLimits(requests=10, tokens=100, window=60.0)
    assert limits.admit(90, 0.0) is None
    refused = limits.admit(20, 1.0)
    assert refused is not None
    assert (refused.scope, refused.used, refused.requested) == ("tokens", 90, 20)
    assert refused.retry_after == 59.0
    assert limits.budgets(1.0)["requests"].remaining == 9
    assert limits.admit(10, 2.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12ms"), (1.0, "1s"), (6.5, "6.5s"), (60.0, "1m0s"), (360.25, "6m0.25s")],
)
def test_resets_are_written_as_the_service_does(seconds: float, text: str) -> None:
    assert _go_duration(seconds) == text


async def test_too_many_requests_are_refused_and_admitted_after_the_window(
    start: Start,
) -> None:
    simulator = await start(requests=2, window=0.5)
    burst = (ask_openai(simulator, f"{n}") for n in range(12))
    results = await asyncio.gather(*burst, return_exceptions=True)
    refused = [error for error in results if isinstance(error, openai.RateLimitError)]
    assert refused
    headers = refused[0].response.headers
    assert refused[0].type == "requests"
    assert refused[0].code == "rate_limit_exceeded"
    assert headers["retry-after"] == "1"
    assert 0 < int(headers["retry-after-ms"]) <= 500
    assert headers["x-ratelimit-remaining-requests"] == "0"
    async with asyncio.timeout(10):
        while not await admitted(simulator):  # noqa: ASYNC110  nothing would set it
            await asyncio.sleep(0.05)
    moments = [c.started_mono for c in simulator.calls if c.ended == "completed"]
    assert all(third - first > 0.4 for first, third in pairwise(moments[::2]))


async def admitted(simulator: Simulator) -> bool:
    try:
        await ask_openai(simulator, "again")
    except openai.RateLimitError:
        return False
    return True


async def test_tokens_are_limited_by_input_and_output(start: Start) -> None:
    simulator = await start(tokens=200)
    first = await ask_openai(simulator, "[[sim:tokens=150]]")
    assert first.usage.total_tokens < 200
    with pytest.raises(openai.RateLimitError) as caught:
        await ask_openai(simulator, "[[sim:tokens=150]]")
    assert caught.value.type == "tokens"
    assert 50 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_openai_headers_tell_what_is_left(start: Start) -> None:
    simulator = await start(requests=100, tokens=10_000)
    client = openai_sdk(simulator)
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    )
    used = simulator.calls[0].input_tokens + simulator.calls[0].output_tokens
    assert raw.headers["x-ratelimit-limit-requests"] == "100"
    assert raw.headers["x-ratelimit-remaining-requests"] == "99"
    assert raw.headers["x-ratelimit-limit-tokens"] == "10000"
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(10_000 - used)
    assert raw.headers["x-ratelimit-reset-requests"].startswith(("1m", "59."))


async def test_anthropic_headers_tell_what_is_left(start: Start) -> None:
    simulator = await start(requests=100, tokens=10_000)
    client = anthropic_sdk(simulator)
    raw = await client.messages.with_raw_response.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
    )
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "99"
    assert raw.headers["anthropic-ratelimit-tokens-limit"] == "10000"
    reset = datetime.fromisoformat(raw.headers["anthropic-ratelimit-requests-reset"])
    assert 50 <= (reset - datetime.now(UTC)).total_seconds() <= 60


async def test_each_service_has_its_own_account(start: Start) -> None:
    simulator = await start(requests=1)
    await ask_openai(simulator, "Hi")
    await ask_anthropic(simulator, "Hi")
    with pytest.raises(anthropic.RateLimitError) as caught:
        await ask_anthropic(simulator, "Hi")
    assert "retry-after" in caught.value.response.headers
    await until(lambda: simulator.summary()["by_status"] == {"200": 2, "429": 1})


async def test_without_limits_no_limit_is_reported(start: Start) -> None:
    simulator = await start()
    client = openai_sdk(simulator)
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    )
    assert not [name for name in raw.headers if "ratelimit" in name]
