"""What calls cost, in whole micro-dollars: the price book, and the owner's own rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

from llmgine_workers import clock
from llmgine_workers.llm import ModelRef, Usage
from llmgine_workers.settings import PriceSettings

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

BYTES_PER_TOKEN = Decimal("3.6")
"""UTF-8 bytes of a token in mixed English text and JSON, on the careful side."""

TOKENS_PER_MESSAGE = 8
"""What a message's role and separators add, rounded up."""

_MILLION = Decimal(1_000_000)

Rates: TypeAlias = tuple[Decimal, Decimal, Decimal, Decimal]
"""Dollars: per call; per million tokens read anew, read from a cache, written."""


def estimate_tokens(texts: Iterable[str]) -> int:
    """Tokens of a conversation's texts, guessed from their bytes (0.1 ms per MB)."""
    return sum(
        TOKENS_PER_MESSAGE
        + estimate_tokens_of_bytes(len(text.encode("utf-8", "surrogatepass")))
        for text in texts
        if text
    )


def estimate_tokens_of_bytes(size: int) -> int:
    """Tokens of so many bytes of UTF-8, rounded up."""
    return int((size / BYTES_PER_TOKEN).to_integral_value(ROUND_CEILING))


class Prices:
    """The price book of one installation: its own rows win over the published ones.

    The published prices are those inside the installed `genai-prices`, read when this
    is made (0.5 s); nothing is ever fetched. A model is always `provider/model`.
    """

    def __init__(self, rows: Mapping[str, PriceSettings]) -> None:
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot

        self._rows = dict(rows)
        self._book = get_snapshot()
        self.version = f"genai-prices {genai_prices.__version__}{_mark(rows)}"
        self._rates: dict[tuple[str, str, int], Rates | None] = {}
        self._row = lru_cache(maxsize=4096)(self._find_row)
        self._published = lru_cache(maxsize=4096)(self._find_published)

    def cost(self, model: str, usage: Usage) -> int | None:
        """Micro-dollars of a usage of `provider/model`, rounded up; None if unknown."""
        row = self._row(model)
        if row is not None:
            return _micro(_by_row(row, usage))
        published = self._published(model)
        return None if published is None else _micro(self._by_book(*published, usage))

    def upper_bound(self, model: str, input_tokens: int, max_tokens: int) -> int | None:
        """Micro-dollars a call can cost at most; None if the model has no price."""
        most = Usage(calls=1, input_tokens=input_tokens, output_tokens=max_tokens)
        return self.cost(model, most)

    def _by_book(self, provider: Provider, model: ModelInfo, usage: Usage) -> Decimal:
        """As the book has it; where its prices are flat, by what it said of a million."""
        prices = model.get_prices(clock.now())
        at = (provider.id, model.id, id(prices))  # all of them live as long as the book
        if at not in self._rates:
            self._rates[at] = _rates(provider, model) if _is_flat(prices) else None
        rates = self._rates[at]
        return _by_rates(rates, usage) if rates else _asked(provider, model, usage)

    def _find_row(self, model: str) -> PriceSettings | None:
        """The exact row, else the longest pattern that fits."""
        fitting = [row for row in self._rows if row == model or fnmatchcase(model, row)]
        if not fitting:
            return None
        return self._rows[max(fitting, key=lambda row: (row == model, len(row)))]

    def _find_published(self, model: str) -> tuple[Provider, ModelInfo] | None:
        at = ModelRef.parse(model)
        try:
            return self._book.find_provider_model(at.model, None, at.provider, None)
        except LookupError:
            return None


@lru_cache(maxsize=8)
def priced_models(providers: frozenset[str]) -> tuple[str, ...]:
    """`provider/model` of every published price of these providers.

    Names that only begin others (`ft:gpt-4o`) are left out.
    """
    from genai_prices.data_snapshot import get_snapshot

    return tuple(
        f"{provider.id}/{model.id}"
        for provider in get_snapshot().providers
        if provider.id in providers
        for model in provider.models
        if model.match.is_match(model.id) and not model.id.startswith("ft:")
    )


def _mark(rows: Mapping[str, PriceSettings]) -> str:
    if not rows:
        return ""
    said = sorted(f"{name} {row.input} {row.output}" for name, row in rows.items())
    return f" + settings {sha256(chr(10).join(said).encode()).hexdigest()[:8]}"


def _by_row(row: PriceSettings, usage: Usage) -> Decimal:
    dollars = Decimal(str(row.input)) * usage.input_tokens
    return (dollars + Decimal(str(row.output)) * usage.output_tokens) / _MILLION


def _by_rates(rates: Rates, usage: Usage) -> Decimal:
    fixed, fresh, cached, output = rates
    read = min(usage.cached_input_tokens, usage.input_tokens)
    tokens = fresh * (usage.input_tokens - read) + cached * read
    return fixed + (tokens + output * usage.output_tokens) / _MILLION


def _is_flat(prices: ModelPrice) -> bool:
    """No price of it depends on how many tokens there are."""
    from genai_prices.types import TieredPrices

    return not any(isinstance(one, TieredPrices) for one in vars(prices).values())


def _rates(provider: Provider, model: ModelInfo) -> Rates:
    """What a call costs for itself, and a million of each kind of token beside it."""
    million = int(_MILLION)
    fixed, *others = (
        _asked(provider, model, Usage(1, **tokens))
        for tokens in (
            {},
            {"input_tokens": million},
            {"input_tokens": million, "cached_input_tokens": million},
            {"output_tokens": million},
        )
    )
    fresh, cached, output = (price - fixed for price in others)
    return fixed, fresh, cached, output


def _asked(provider: Provider, model: ModelInfo, usage: Usage) -> Decimal:
    from genai_prices import Usage as Counted

    counted = Counted(
        input_tokens=usage.input_tokens,
        cache_read_tokens=min(usage.cached_input_tokens, usage.input_tokens),
        output_tokens=usage.output_tokens,
    )
    priced = model.calc_price(counted, provider, genai_request_timestamp=clock.now())
    return priced.total_price


def _micro(dollars: Decimal) -> int:
    return int((dollars * _MILLION).to_integral_value(ROUND_CEILING))
