"""What differs between services of the same wire format, as rows of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.providers import clients, clouds
from llmgine_workers.settings import ProviderSettings


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_BASIC = _same("temperature", "top_p", "stop")
_PENALTIES = _same("frequency_penalty", "presence_penalty")
_SAMPLING = _BASIC | _PENALTIES | _same("seed", "reasoning_effort")
_WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, kw_only=True)
class Service:
    """One row: how this service differs from the others of its wire.

    Every default is the way of most services that speak Chat Completions. `client`
    opens the SDK, `path` and `query` follow the address; `{model}` is the model's name.
    `embeddings` is the path of vectors, None where there are none, and `dimensions` the
    word for their size. `max_tokens` is this service's word for it. `parameters` is the
    allow-list of what a chain may set, with the place in the request's body; a name with
    a dot is a field inside an object. Whatever changes the price of a token (service
    tiers, cache writes) stays out, or bills would be wrong. `streamed` is what a streamed
    body has besides; `schema` is how a JSON object is asked for: by its schema, or in
    words. `idle_s` bounds the silence inside a stream (seconds): a model that thinks says
    nothing on Chat Completions for as long as it thinks, a local one also while it is
    loaded; Messages sends a ping every few seconds.
    """

    wire: str = "openai"
    base_url: str | None = None
    client: clients.Opener = clients.compatible_client
    path: str = "/chat/completions"
    embeddings: str | None = "/embeddings"
    dimensions: str = "dimensions"
    query: Mapping[str, str] = field(default_factory=dict)
    max_tokens: str = "max_tokens"
    default_max_tokens: int | None = None
    parameters: Mapping[str, str] = field(
        default_factory=lambda: _SAMPLING | _same("top_k")
    )
    streamed: Mapping[str, Any] = field(default_factory=lambda: _WITH_USAGE)
    schema: Literal["json_schema", "json_object"] = "json_schema"
    idle_s: float = 180.0


COMPATIBLE = Service()
OPENAI = Service(
    base_url="https://api.openai.com/v1",
    client=clients.openai_client,
    max_tokens="max_completion_tokens",
    parameters=_SAMPLING | _same("verbosity", "logit_bias"),
)
ANTHROPIC = Service(
    wire="anthropic",
    base_url="https://api.anthropic.com",
    client=clients.anthropic_client,
    path="/v1/messages",
    embeddings=None,
    default_max_tokens=4096,
    parameters={
        "stop": "stop_sequences",
        "thinking": "thinking",
        "reasoning_effort": "output_config.effort",
    },
    streamed={"stream": True},
    idle_s=60.0,
)
AZURE = replace(
    OPENAI, base_url=None, client=clients.azure_client, query={"api-version": "v1"}
)

SERVICES: dict[str, Service] = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "azure": AZURE,
    "azure-deployments": replace(
        AZURE,
        path="/deployments/{model}/chat/completions",
        embeddings="/deployments/{model}/embeddings",
        query={"api-version": "2024-10-21"},
    ),
    "bedrock": replace(COMPATIBLE, client=clouds.bedrock_client, embeddings=None),
    "bedrock-claude": replace(ANTHROPIC, base_url=None, client=clouds.mantle_client),
    "deepseek": Service(
        base_url="https://api.deepseek.com",
        embeddings=None,
        parameters=_BASIC | _PENALTIES,
        schema="json_object",
    ),
    "gemini": Service(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        parameters=_BASIC | _same("reasoning_effort"),
    ),
    "groq": Service(
        base_url="https://api.groq.com/openai/v1",
        embeddings=None,
        max_tokens="max_completion_tokens",
        parameters=_BASIC | _same("seed", "reasoning_effort"),
        schema="json_object",
    ),
    "mistral": Service(
        base_url="https://api.mistral.ai/v1",
        dimensions="output_dimension",
        parameters=_BASIC | _PENALTIES | {"seed": "random_seed"},
        streamed={"stream": True},
    ),
    "ollama": Service(base_url="http://localhost:11434/v1"),
    "openrouter": Service(
        base_url="https://openrouter.ai/api/v1",
        parameters=_SAMPLING | _same("top_k") | {"reasoning_effort": "reasoning.effort"},
    ),
    "together": Service(base_url="https://api.together.xyz/v1"),
    "vertex": Service(
        client=clouds.vertex_client,
        embeddings=None,
        parameters=_BASIC | _same("reasoning_effort"),
    ),
    "vertex-claude": replace(
        ANTHROPIC, base_url=None, client=clouds.vertex_claude_client
    ),
    "vllm": Service(base_url="http://localhost:8000/v1"),
    "xai": Service(
        base_url="https://api.x.ai/v1",
        embeddings=None,
        max_tokens="max_completion_tokens",
        parameters=_BASIC | _same("seed", "reasoning_effort"),
    ),
}
"""The services known by name; where each fact is from: docs/providers.md."""

_UNKNOWN = {"openai": COMPATIBLE, "anthropic": ANTHROPIC}
_SIMULATED = {"openai": OPENAI, "anthropic": ANTHROPIC}
"""What the simulator plays, whoever it stands in for."""


def service_of(name: str, settings: ProviderSettings) -> Service:
    """The row of a configured provider; ConfigurationError if it has no address."""
    row = row_of(name, settings)
    if not (settings.base_url or row.base_url):
        raise ConfigurationError(f"providers.{name}: base_url is missing")
    return replace(row, query={**row.query, **settings.query})


def row_of(name: str, settings: ProviderSettings) -> Service:
    """The row by which a provider is called, wherever it is."""
    if settings.simulated:
        return _SIMULATED[settings.wire]
    row = SERVICES.get(settings.like or name)
    return row if row and row.wire == settings.wire else _UNKNOWN[settings.wire]


def place(body: dict[str, object], where: str, value: object) -> None:
    """Put a value into a body at `field` or `object.field`."""
    outer, dot, inner = where.partition(".")
    if not dot:
        body[outer] = value
        return
    part = body.setdefault(outer, {})
    if isinstance(part, dict):
        part[inner] = value
