"""What calls cost, in whole micro-dollars: the price book, and the owner's own rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from llmgine_workers import clock
from llmgine_workers.llm import ModelRef, Usage
from llmgine_workers.settings import PriceSettings

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

BYTES_PER_TOKEN = Decimal("3.6")
"""UTF-8 bytes of a token in mixed English text and JSON, on the careful side."""

TOKENS_PER_MESSAGE = 8
"""What a message's role and separators add, rounded up."""

_MILLION = Decimal(1_000_000)


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
        self._row = lru_cache(maxsize=4096)(self._find_row)
        self._published = lru_cache(maxsize=4096)(self._find_published)

    def cost(self, model: str, usage: Usage) -> int | None:
        """Micro-dollars of a usage of `provider/model`, rounded up; None if unknown."""
        row = self._row(model)
        if row is not None:
            return _micro(_by_row(row, usage))
        published = self._published(model)
        return None if published is None else _micro(_by_book(*published, usage))

    def upper_bound(self, model: str, input_tokens: int, max_tokens: int) -> int | None:
        """Micro-dollars a call can cost at most; None if the model has no price."""
        most = Usage(calls=1, input_tokens=input_tokens, output_tokens=max_tokens)
        return self.cost(model, most)

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


def _by_book(provider: Provider, model: ModelInfo, usage: Usage) -> Decimal:
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
