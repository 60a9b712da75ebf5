"""Every known service, played by the simulator at that service's own addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from llmgine_workers import settings
from llmgine_workers.llm import Message
from llmgine_workers.providers import open_providers
from llmgine_workers.providers.exchange import HttpProvider
from llmgine_workers.simulator import CallRecord, Latency, SimulatorConfig
from llmgine_workers.simulator.anthropic_wire import AnthropicWire
from llmgine_workers.simulator.call_log import CallLog
from llmgine_workers.simulator.faults import FaultBook
from llmgine_workers.simulator.handler import CallHandler
from llmgine_workers.simulator.openai_wire import OpenAIWire
from llmgine_workers.simulator.prompt import BadRequestError, Prompt
from llmgine_workers.simulator.wire import Wire
from tests.providers.conftest import KEY

VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/acme/locations/us-east5"


@dataclass(frozen=True)
class Known:
    """A service: a model's name as it writes them, and the address of a call.

    `base_url` is what an operator has to write, where the row cannot know it.
    """

    model: str
    url: str
    base_url: str | None = None
    key_header: str = "Authorization"


KNOWN = {
    "anthropic": Known("claude-haiku-5", "https://api.anthropic.com/v1/messages"),
    "azure": Known(
        "our-gpt",
        "https://acme.openai.azure.com/openai/v1/chat/completions?api-version=v1",
        "https://acme.openai.azure.com/openai/v1",
        "api-key",
    ),
    "azure-deployments": Known(
        "our gpt/4",
        "https://acme.openai.azure.com/openai/deployments/our%20gpt%2F4"
        "/chat/completions?api-version=2024-10-21",
        "https://acme.openai.azure.com/openai",
        "api-key",
    ),
    "bedrock": Known(
        "openai.gpt-oss-120b-1:0",
        "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1/chat/completions",
        "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1",
    ),
    "bedrock-claude": Known(
        "anthropic.claude-haiku-5",
        "https://bedrock-mantle.eu-west-1.api.aws/anthropic/v1/messages",
        "https://bedrock-mantle.eu-west-1.api.aws/anthropic",
    ),
    "deepseek": Known("deepseek-chat", "https://api.deepseek.com/chat/completions"),
    "gemini": Known(
        "gemini-2.5-flash",
        "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
    ),
    "groq": Known(
        "openai/gpt-oss-20b", "https://api.groq.com/openai/v1/chat/completions"
    ),
    "mistral": Known(
        "mistral-small-latest", "https://api.mistral.ai/v1/chat/completions"
    ),
    "ollama": Known("llama3.2:3b", "http://localhost:11434/v1/chat/completions"),
    "openai": Known("gpt-5-mini", "https://api.openai.com/v1/chat/completions"),
    "openrouter": Known(
        "anthropic/claude-sonnet-5:beta", "https://openrouter.ai/api/v1/chat/completions"
    ),
    "together": Known(
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "https://api.together.xyz/v1/chat/completions",
    ),
    "vertex": Known(
        "google/gemini-2.5-flash",
        f"{VERTEX}/endpoints/openapi/chat/completions",
        f"{VERTEX}/endpoints/openapi",
    ),
    "vertex-claude": Known(
        "claude-haiku-5",
        f"{VERTEX}/publishers/anthropic/models/claude-haiku-5:rawPredict",
        VERTEX,
    ),
    "vllm": Known("Qwen/Qwen3-8B", "http://localhost:8000/v1/chat/completions"),
    "xai": Known("grok-4", "https://api.x.ai/v1/chat/completions"),
}


class _Mistral(OpenAIWire):
    """Refuses what it does not know, and reports usage unasked."""

    def read(self, body: Mapping[str, Any]) -> Prompt:
        unknown = {"stream_options", "seed", "max_completion_tokens"} & body.keys()
        if unknown:
            raise BadRequestError(f"Extra inputs are not permitted: {unknown}")
        return replace(super().read(body), include_usage=True)


class _VertexClaude(AnthropicWire):
    """Takes the model from the path only."""

    def read(self, body: Mapping[str, Any]) -> Prompt:
        if "model" in body or "anthropic_version" not in body:
            raise BadRequestError("model: Extra inputs are not permitted")
        return super().read({**body, "model": KNOWN["vertex-claude"].model})


OWN_WAYS: dict[str, Wire] = {"mistral": _Mistral(), "vertex-claude": _VertexClaude()}
WIRES: dict[str, Wire] = {"openai": OpenAIWire(), "anthropic": AnthropicWire()}


@dataclass
class Town:
    """All services behind one port, each below its name, and how they were called."""

    url: str
    calls: list[CallRecord]
    requests: list[web.BaseRequest] = field(default_factory=list)

    def at(self, name: str, address: str) -> str:
        """A service's address, here."""
        return f"{self.url}/{name}{urlsplit(address).path}"

    @property
    def path(self) -> str:
        """Path and query of the last call, as the service itself would see it."""
        return "/" + self.requests[-1].raw_path.lstrip("/").partition("/")[2]


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    """The simulator in the part of each service; anybody else's in OpenAI's."""
    config = SimulatorConfig(seed=3, latency=Latency(0.002), cached_share=0.25)
    log, faults = CallLog(None), FaultBook(config.seed, {})
    plays = {
        name: CallHandler(OWN_WAYS.get(name, WIRES[row["wire"]]), config, faults, log)
        for name, row in settings.PROVIDER_ROWS.items()
    }
    here = Town("", log.records)

    async def door(request: web.Request) -> web.StreamResponse:
        here.requests.append(request)
        name = request.match_info["name"]
        return await plays.get(name, plays["openai"]).chat(request)

    app = web.Application()
    app.router.add_post("/{name}/{path:.*}", door)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield here
    await runner.cleanup()
    log.close()


def configured(lines: str) -> settings.Settings:
    """Settings as an operator writes them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "llmgine.toml"
        path.write_text(lines, "utf-8")
        return settings.load(path, {})


def opened(name: str, base_url: str, **more: str) -> HttpProvider:
    """A provider by the few lines of TOML that it needs, with the key in `A_KEY`."""
    told = {"base_url": base_url, **more}
    if settings.PROVIDER_ROWS.get(name, {}).get("key_env") or "vertex" in name:
        told["key_env"] = "A_KEY"
    lines = "".join(f'{key} = "{value}"\n' for key, value in told.items())
    whole = configured(f"[providers.{name}]\n{lines}")
    provider = open_providers(whole.providers, {"A_KEY": KEY})[name]
    assert isinstance(provider, HttpProvider)
    return provider


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)
