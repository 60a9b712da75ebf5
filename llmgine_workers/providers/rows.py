"""What differs between services of the same wire format, as rows of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.settings import ProviderSettings


@dataclass(frozen=True)
class Service:
    """One row: how this service differs from the others of its wire.

    `parameters` is the allow-list of what a chain may set, with the place in the
    request's body; a name with a dot is a field inside an object. Whatever changes
    the price of a token (service tiers, cache writes) stays out, or bills would be
    wrong. `idle_s` bounds the silence inside a stream (seconds).
    """

    wire: str
    base_url: str | None
    max_tokens: str
    parameters: Mapping[str, str]
    idle_s: float
    default_max_tokens: int | None = None


_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "reasoning_effort": "reasoning_effort",
}

# A model that thinks is silent on Chat Completions for as long as it thinks;
# a local one also while it is loaded. Messages sends a ping every few seconds.
OPENAI = Service(
    wire="openai",
    base_url="https://api.openai.com/v1",
    max_tokens="max_completion_tokens",
    parameters={**_SAMPLING, "verbosity": "verbosity", "logit_bias": "logit_bias"},
    idle_s=180.0,
)
ANTHROPIC = Service(
    wire="anthropic",
    base_url="https://api.anthropic.com",
    max_tokens="max_tokens",
    parameters={
        "stop": "stop_sequences",
        "thinking": "thinking",
        "reasoning_effort": "output_config.effort",
    },
    idle_s=60.0,
    default_max_tokens=4096,
)
COMPATIBLE = Service(
    wire="openai",
    base_url=None,
    max_tokens="max_tokens",
    parameters={**_SAMPLING, "top_k": "top_k"},
    idle_s=180.0,
)

SERVICES: dict[str, Service] = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "ollama": COMPATIBLE,
}
"""The services known by name; anyone else's is `COMPATIBLE` with its address."""


def service_of(name: str, settings: ProviderSettings) -> Service:
    """The row of a configured provider; ConfigurationError if it has no address."""
    row = SERVICES.get(name)
    if row is None or row.wire != settings.wire:
        row = ANTHROPIC if settings.wire == "anthropic" else COMPATIBLE
    if not (settings.base_url or row.base_url):
        raise ConfigurationError(f"providers.{name}: base_url is missing")
    return row


def place(body: dict[str, object], where: str, value: object) -> None:
    """Put a value into a body at `field` or `object.field`."""
    field, dot, inner = where.partition(".")
    if not dot:
        body[field] = value
        return
    part = body.setdefault(field, {})
    if isinstance(part, dict):
        part[inner] = value
