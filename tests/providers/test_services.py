"""What holds for every service known by name, and for one that is not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from llmgine_workers import settings
from llmgine_workers.errors import ConfigurationError
from llmgine_workers.llm import CallFailed, LlmRequest, ModelRef
from llmgine_workers.providers import open_providers, rows
from llmgine_workers.providers.exchange import HttpProvider
from llmgine_workers.simulator import Simulator
from tests.providers.conftest import JOB, KEY, Pieces
from tests.providers.services import KNOWN, Known, Town, configured, opened, town, user

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer"}, "notes": {"type": "string"}},
    "required": ["score", "notes"],
}


@pytest.fixture(scope="session")
async def here() -> AsyncIterator[Town]:
    async with town() as running:
        yield running


@pytest.fixture(params=sorted(KNOWN))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def known(name: str) -> Known:
    return KNOWN[name]


@pytest.fixture(scope="session")
async def everybody(here: Town) -> AsyncIterator[dict[str, HttpProvider]]:
    """Each is opened once: a client's TLS settings alone take 20 ms."""
    running = {name: opened(name, here.at(name, address_of(name))) for name in KNOWN}
    yield running
    for one in running.values():
        await one.close()


@pytest.fixture
def provider(name: str, everybody: dict[str, HttpProvider]) -> HttpProvider:
    return everybody[name]


def address_of(name: str) -> str:
    return KNOWN[name].base_url or rows.SERVICES[name].base_url or ""


def test_every_row_has_its_settings_and_its_contract() -> None:
    assert set(rows.SERVICES) == set(settings.PROVIDER_ROWS) == set(KNOWN)
    for name, service in rows.SERVICES.items():
        assert service.wire == settings.PROVIDER_ROWS[name]["wire"]
        assert (service.base_url is None) is (KNOWN[name].base_url is not None)
        assert KNOWN[name].url.startswith(service.base_url or "https://")


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_with_text_usage_and_ids(
    provider: HttpProvider, known: Known, here: Town, streamed: bool
) -> None:
    pieces = Pieces() if streamed else None
    request = LlmRequest(known.model, user("Say something long."), "Be kind.", 300)
    answer = await provider.call(request, timeout_s=5, headers=JOB, on_delta=pieces)
    seen = here.calls[-1]
    assert sha256(answer.text.encode()).hexdigest() == seen.text_sha256
    assert (answer.finish_reason, answer.status) == ("stop", 200)
    assert (answer.model, seen.model) == (known.model, known.model)
    assert (answer.request_id, seen.job) == (seen.request_id, JOB["x-llmgine-job"])
    assert answer.usage.cached_input_tokens == seen.cached_input_tokens
    assert answer.usage.input_tokens == seen.input_tokens > 0
    assert answer.usage.output_tokens == seen.output_tokens > 0
    assert seen.stream is streamed
    assert pieces is None or pieces.text == answer.text


async def test_is_called_where_it_lives_with_the_key_where_it_belongs(
    provider: HttpProvider, name: str, known: Known, here: Town
) -> None:
    request = LlmRequest(known.model, user("Hi"), max_tokens=20)
    await provider.call(request, timeout_s=5, headers={})
    seen = here.requests[-1]
    assert known.url.partition("://")[2].partition("/")[2] == here.path[1:]
    carriers = [header for header, value in seen.headers.items() if KEY in value]
    needs_one = name not in ("ollama", "vllm")
    assert carriers == [known.key_header] * needs_one


async def test_a_schema_makes_the_text_json(provider: HttpProvider, known: Known) -> None:
    for system in (None, "Be terse."):
        request = LlmRequest(known.model, user("Review."), system, 300, SCHEMA)
        answer = await provider.call(request, timeout_s=5, headers={})
        assert set(json.loads(answer.text)) == {"score", "notes"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_failure_has_a_code(
    provider: HttpProvider, known: Known, streamed: bool
) -> None:
    codes = {
        "400": "provider_rejected",
        "401": "provider_auth",
        "429": "provider_rate_limited",
        "500": "provider_unavailable",
        "quota": "provider_quota",
        "context": "context_too_long",
        "reset": "provider_unavailable",
        "truncated": "stream_cut" if streamed else "provider_bad_response",
    }
    told = {}
    for fault in codes:
        prompt = f"[[sim:fault={fault}]] My secret is 4711."
        request = LlmRequest(known.model, user(prompt), max_tokens=200)
        with pytest.raises(CallFailed) as caught:
            await provider.call(
                request, timeout_s=5, headers={}, on_delta=Pieces() if streamed else None
            )
        told[fault] = caught.value.failure.code
        assert KEY not in caught.value.failure.message
    assert told == codes


async def test_stops_at_max_tokens(provider: HttpProvider, known: Known) -> None:
    request = LlmRequest(known.model, user("[[sim:tokens=90]] Go on."), max_tokens=5)
    answer = await provider.call(request, timeout_s=5, headers={})
    assert answer.finish_reason == "length"
    assert answer.usage.output_tokens <= 5


async def test_others_do_not_get_what_the_environment_holds_for_openai(
    name: str, known: Known, here: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-ours")
    if name != "openai":
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other")
    provider = opened(name, here.at(name, address_of(name)))
    request = LlmRequest(known.model, user("Hi"), max_tokens=20)
    await provider.call(request, timeout_s=5, headers={})
    await provider.close()
    sent = str(here.requests[-1].headers)
    assert ("-ours" in sent) is (name == "openai")
    assert "Bearer other" not in sent


# One that is not known by name.

FOUR_LINES = """\
[providers.mine]
wire = "openai"
base_url = "{}"
key_env = "MY_KEY"
"""


async def test_an_unknown_service_needs_four_lines(here: Town) -> None:
    mine = configured(FOUR_LINES.format(here.at("mine", "/api/v7")))
    assert mine.pools({"MY_KEY": KEY}) == ("mine", "tools")
    assert mine.pools({}) == ("tools",)
    model = ModelRef.parse("mine/acme/large:2")
    provider = open_providers(mine.providers, {"MY_KEY": KEY})[model.provider]
    pieces = Pieces()
    request = LlmRequest(model.model, user("Say something long."), max_tokens=300)
    answer = await provider.call(request, timeout_s=5, headers=JOB, on_delta=pieces)
    await provider.close()
    assert answer.text == pieces.text != ""
    assert answer.usage.output_tokens == here.calls[-1].output_tokens
    assert here.calls[-1].model == "acme/large:2"
    assert here.path == "/api/v7/chat/completions"
    assert here.requests[-1].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("text", "provider", "model"),
    [
        ("openrouter/anthropic/claude-5", "openrouter", "anthropic/claude-5"),
        ("groq/openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
        ("ollama/hf.co/acme/m:Q4_K_M", "ollama", "hf.co/acme/m:Q4_K_M"),
        ("bedrock/openai.gpt-oss-120b-1:0", "bedrock", "openai.gpt-oss-120b-1:0"),
    ],
)
def test_a_model_is_split_at_the_first_slash(
    text: str, provider: str, model: str
) -> None:
    assert ModelRef.parse(text) == ModelRef(provider, model)
    alias = f'[providers.{provider}]\n[models]\nfast = ["{text}"]\n'
    assert configured(alias).models["fast"] == (text,)


async def test_a_second_account_is_like_the_first(here: Town) -> None:
    lines = f"""
        [providers.azure-sweden]
        like = "azure"
        base_url = "{here.at("azure", "/openai/v1")}"
        query = {{api-version = "preview"}}
    """
    swedish = configured(lines).providers
    assert swedish["azure-sweden"].key_env == "AZURE_OPENAI_API_KEY"
    environ = {"AZURE_OPENAI_API_KEY": KEY}
    provider = open_providers(swedish, environ)["azure-sweden"]
    await provider.call(
        LlmRequest("gpt", user("Hi"), max_tokens=9), timeout_s=5, headers={}
    )
    await provider.close()
    assert here.path == "/openai/v1/chat/completions?api-version=preview"
    assert here.requests[-1].headers["api-key"] == KEY


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('[providers.a]\nlike = "azur"', "providers.a.like: .*'azur' is none of"),
        ("[providers.a]\nlike = 3", "providers.a.like: "),
        ('[providers.a]\nbase_url = "http://x"', "providers.a.wire: Field required"),
    ],
)
def test_settings_that_name_no_service_are_refused(lines: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        configured(lines)


@pytest.mark.parametrize(
    "name", [name for name, known in sorted(KNOWN.items()) if known.base_url]
)
def test_an_address_nobody_can_know_is_asked_for(name: str) -> None:
    told = configured(f'[providers.{name}]\nkey_env = ""').providers
    with pytest.raises(
        ConfigurationError, match=f"providers.{name}: base_url is missing"
    ):
        open_providers(told, {})


@pytest.mark.parametrize("name", ["azure-deployments", "vertex-claude", "mistral"])
async def test_the_simulator_is_called_its_own_way_whoever_it_plays(
    name: str, simulator: Simulator
) -> None:
    wire = settings.PROVIDER_ROWS[name]["wire"]
    base_url = simulator.url + {"openai": "/v1", "anthropic": ""}[wire]
    lines = f'[providers.{name}]\nbase_url = "{base_url}"\nkey_env = ""\nsimulated = true'
    provider = open_providers(configured(lines).providers, {})[name]
    request = LlmRequest("m", user("Hi"), max_tokens=9)
    assert (await provider.call(request, timeout_s=5, headers={})).status == 200
    await provider.close()


def test_the_page_names_every_service_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text("utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines()]
    shown = {
        line[0].strip("`"): tuple(cell.strip("`") for cell in line[1:4])
        for line in lines
        if len(line) == 5 and line[1] in ("`openai`", "`anthropic`")
    }
    assert shown == {
        name: (
            row.wire,
            row.base_url or "yours",
            settings.PROVIDER_ROWS[name].get("key_env", "–"),
        )
        for name, row in rows.SERVICES.items()
    }
