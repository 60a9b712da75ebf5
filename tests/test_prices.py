"""What calls cost."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.llm import Usage
from llmgine_workers.prices import (
    Prices,
    _asked,
    _micro,
    estimate_tokens,
    estimate_tokens_of_bytes,
    priced_models,
)
from llmgine_workers.settings import PriceSettings

FREE = PriceSettings(input=0, output=0)


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices(
        {
            "ollama/*": FREE,
            "ollama/big*": PriceSettings(input=0.1, output=0.3),
            "openai/gpt-5": PriceSettings(input=1, output=2),
        }
    )


@pytest.mark.parametrize(
    ("model", "usage", "micro_usd"),
    [
        # Per million tokens: $0.25 in, $0.025 cached, $2 out; half a micro rounds up.
        ("openai/gpt-5-mini", Usage(1, 1000, 100, 50), 328),
        ("openai/gpt-5-mini", Usage(1, 4, 0, 0), 1),
        ("openai/gpt-5-mini", Usage(1, 5, 0, 0), 2),
        ("openai/gpt-5-mini-2025-08-07", Usage(1, 1_000_000, 0, 1_000_000), 2_250_000),
        # $3 in, $0.30 cached, $15 out; beyond 200k input tokens $6, $0.60, $22.50.
        ("anthropic/claude-sonnet-4-5", Usage(1, 200_000, 50_000, 10), 465_150),
        ("anthropic/claude-sonnet-4-5", Usage(1, 200_001, 50_000, 10), 930_231),
        ("ollama/llama3", Usage(1, 10_000, 0, 10_000), 0),
        ("ollama/bigger", Usage(1, 10, 0, 10), 4),
        ("openai/gpt-5", Usage(1, 10, 10, 10), 30),
        ("openai/no-such-model", Usage(1, 10, 0, 10), None),
        ("nobody/gpt-5-mini", Usage(1, 10, 0, 10), None),
    ],
)
def test_costs_are_whole_micro_dollars_rounded_up(
    prices: Prices, model: str, usage: Usage, micro_usd: int | None
) -> None:
    assert prices.cost(model, usage) == micro_usd


def test_reasoning_is_part_of_the_output_and_not_paid_twice(prices: Prices) -> None:
    without = prices.cost("openai/gpt-5-mini", Usage(1, 100, 0, 1000))
    assert prices.cost("openai/gpt-5-mini", Usage(1, 100, 0, 1000, 900)) == without


def test_the_version_names_the_release_and_the_own_rows(prices: Prices) -> None:
    assert Prices({}).version == "genai-prices 0.2.3"
    assert prices.version.startswith("genai-prices 0.2.3 + settings ")
    assert Prices({"ollama/*": FREE}).version != prices.version
    same = [Prices({"a/*": FREE, "b/*": FREE}), Prices({"b/*": FREE, "a/*": FREE})]
    assert same[0].version == same[1].version


@given(
    input_tokens=st.integers(0, 500_000),
    cached=st.integers(0, 500_000),
    output=st.integers(0, 50_000),
    model=st.sampled_from(
        ["openai/gpt-5-mini", "anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-5"]
    ),
)
def test_no_call_within_its_bounds_costs_more_than_the_upper_bound(
    prices: Prices, input_tokens: int, cached: int, output: int, model: str
) -> None:
    bound = prices.upper_bound(model, input_tokens, 50_000)
    cost = prices.cost(model, Usage(1, input_tokens, min(cached, input_tokens), output))
    assert bound is not None
    assert cost is not None
    assert 0 <= cost <= bound


def test_an_unknown_model_has_no_upper_bound(prices: Prices) -> None:
    assert prices.upper_bound("nobody/model", 10, 10) is None


def test_prices_come_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("no connection is wanted")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    assert Prices({}).cost("openai/gpt-5", Usage(1, 1_000_000, 0, 0)) == 1_250_000


def test_tokens_are_guessed_from_bytes() -> None:
    assert estimate_tokens_of_bytes(0) == 0
    assert estimate_tokens_of_bytes(36) == 10
    assert estimate_tokens_of_bytes(37) == 11
    assert estimate_tokens(["a" * 36, "", "日本", "\ud800"]) == 10 + 2 + 1 + 3 * 8


@pytest.mark.parametrize(
    ("read", "cached", "written"),
    [(0, 0, 0), (17, 0, 3), (5000, 2500, 777), (300, 301, 1), (250_000, 9, 90_001)],
)
def test_flat_prices_are_the_books_to_the_micro_dollar(
    read: int, cached: int, written: int
) -> None:
    book = Prices({})
    usage = Usage(1, input_tokens=read, cached_input_tokens=cached, output_tokens=written)
    for model in priced_models(frozenset({"openai", "anthropic", "groq"})):
        priced = book._published(model)
        assert priced is not None
        assert book.cost(model, usage) == _micro(_asked(*priced, usage)), model
