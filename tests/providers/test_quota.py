"""What services say is left of their limits, in every way they write it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmgine_workers import clock
from llmgine_workers.llm import Quota
from llmgine_workers.providers.quota import quota_of, reset_s, seconds_of
from llmgine_workers.simulator import Simulator, SimulatorConfig
from tests.providers.conftest import JOB, SIDES, Side


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({}, Quota()),
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-remaining-tokens": "0"},
            Quota(requests=59, tokens=0),
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "4",
                "anthropic-ratelimit-input-tokens-remaining": "300",
                "anthropic-ratelimit-output-tokens-remaining": "20",
            },
            Quota(requests=4, input_tokens=300, output_tokens=20),
        ),
        ({"x-ratelimit-remaining-tokens": "-1"}, Quota()),
        ({"x-ratelimit-remaining-tokens": "many"}, Quota()),
        ({"x-ratelimit-remaining-tokens": "9" * 400}, Quota()),
        ({"x-ratelimit-remaining-tokens": "\u00b2"}, Quota()),
    ],
)
def test_what_is_left_is_read_or_nothing(headers: dict[str, str], quota: Quota) -> None:
    assert quota_of(headers) == quota


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("88ms", 0.088),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400),
        ("", None),
        ("soon", None),
        ("6 m", None),
    ],
)
def test_durations_are_those_of_go(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.5"}, 7.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "x"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            2,
        ),
    ],
)
def test_a_budget_that_is_used_up_says_when_it_is_whole_again(
    headers: dict[str, str], seconds: float | None
) -> None:
    found = reset_s(headers)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_anthropic_names_the_moment() -> None:
    moment = clock.now() + timedelta(seconds=300)
    headers = {
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert reset_s(headers) == pytest.approx(300, abs=60)


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES.keys())
async def test_an_answer_brings_up_what_its_headers_say(side: Side) -> None:
    async with Simulator(SimulatorConfig(requests=50, tokens=100_000)) as simulator:
        provider = side.open(simulator.url)
        request = side.request("Hi")
        answer = await provider.call(request, timeout_s=60, headers=JOB)
        await provider.close()
    assert answer.quota.requests == 49
    assert 90_000 < (answer.quota.tokens or 0) < 100_000
