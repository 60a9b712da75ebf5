"""Bytes as single services send them, where they differ from the wire's own service."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.llm import CallFailed, Delta, LlmRequest, Usage
from llmgine_workers.providers import open_providers, rows
from llmgine_workers.providers.openai_wire import OpenAIWire
from tests.providers.conftest import KEY, Pieces, Seen, Side, answering, head
from tests.providers.services import KNOWN, configured, opened, user
from tests.providers.test_quirks import JSON_HEAD, call, code_of, openai_chunk, stream

SIDES = {
    name: Side(name, OpenAIWire(), service, KNOWN[name].model, "/v1")
    for name, service in rows.SERVICES.items()
    if service.path == "/chat/completions" and "bedrock" not in name
}
USAGE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}


def whole(
    content: object = "Yes.", usage: object = USAGE, **fields: object
) -> list[bytes]:
    """A plain answer; `fields` are of its choice."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **fields}
    document = {"model": "m", "choices": [choice], "usage": usage}
    return [JSON_HEAD, json.dumps(document).encode()]


def refusal(status: str, document: object, *headers: str) -> list[bytes]:
    """An error answer."""
    shown = head(status, *headers, "Connection: close", kind="application/json")
    return [shown, json.dumps(document).encode()]


async def failure(name: str, pieces: list[bytes]) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await call(SIDES[name], pieces)
    return caught.value


# What is sent.

REQUEST = LlmRequest(
    model="m",
    messages=user("Hi"),
    max_tokens=50,
    parameters={
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 1,
        "reasoning_effort": "low",
        "service_tier": "flex",
    },
)
BASIC = {"temperature": 0.2, "top_p": 0.9, "stop": ["END"]}
EFFORT = {"reasoning_effort": "low"}
COMPATIBLE = {**BASIC, **EFFORT, "max_tokens": 50, "seed": 7, "presence_penalty": 1}
WITH_USAGE = {"stream_options": {"include_usage": True}}
SENT: dict[str, dict[str, Any]] = {
    "azure": {
        **{k: v for k, v in COMPATIBLE.items() if k != "max_tokens"},
        **WITH_USAGE,
        "max_completion_tokens": 50,
    },
    "deepseek": {**BASIC, **WITH_USAGE, "max_tokens": 50, "presence_penalty": 1},
    "gemini": {**BASIC, **EFFORT, **WITH_USAGE, "max_tokens": 50},
    "groq": {**BASIC, **EFFORT, **WITH_USAGE, "max_completion_tokens": 50, "seed": 7},
    "mistral": {**BASIC, "max_tokens": 50, "random_seed": 7, "presence_penalty": 1},
    "ollama": {**COMPATIBLE, **WITH_USAGE, "top_k": 4},
    "openrouter": {
        **{k: v for k, v in COMPATIBLE.items() if k != "reasoning_effort"},
        **WITH_USAGE,
        "top_k": 4,
        "reasoning": {"effort": "low"},
    },
    "together": {**COMPATIBLE, **WITH_USAGE, "top_k": 4},
    "vertex": {**BASIC, **EFFORT, **WITH_USAGE, "max_tokens": 50},
    "vllm": {**COMPATIBLE, **WITH_USAGE, "top_k": 4},
    "xai": {**BASIC, **EFFORT, **WITH_USAGE, "max_completion_tokens": 50, "seed": 7},
}
SENT["azure-deployments"] = SENT["azure"]
SENT["bedrock"] = SENT["together"]


@pytest.mark.parametrize("name", sorted(SENT))
def test_each_service_gets_its_own_words_and_nothing_it_does_not_take(name: str) -> None:
    body = OpenAIWire().body(REQUEST, rows.SERVICES[name], streamed=True)
    messages = [{"role": "user", "content": "Hi"}]
    assert body == {"model": "m", "messages": messages, "stream": True, **SENT[name]}


def test_every_row_of_chat_completions_has_its_body_here() -> None:
    chat = {name for name, row in rows.SERVICES.items() if row.wire == "openai"}
    assert set(SENT) == chat - {"openai"}


@pytest.mark.parametrize("name", ["deepseek", "groq"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_schema_is_put_in_words_where_only_json_can_be_asked_for(
    name: str, system: str | None
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    request = LlmRequest("m", user("Hi"), system, schema=schema)
    body = OpenAIWire().body(request, rows.SERVICES[name], streamed=False)
    assert body["response_format"] == {"type": "json_object"}
    told, said = body["messages"]
    assert told["role"] == "system"
    assert told["content"].startswith(system or "Answer with one JSON object")
    assert json.loads(told["content"].partition("else:\n")[2]) == schema
    assert said == {"role": "user", "content": "Hi"}


# What is answered.

THOUGHTFUL = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    {"type": "text", "text": "Grüße, "},
    {"type": "text", "text": "🐇"},
]
REASONING: dict[str, list[dict[str, object]]] = {
    "deepseek": [{"reasoning_content": "Hm.", "content": None}],
    "xai": [{"reasoning_content": "Hm."}],
    "vllm": [{"reasoning_content": "Hm.", "content": ""}],
    "groq": [{"reasoning": "Hm."}],
    "ollama": [{"reasoning": "Hm.", "content": ""}],
    "together": [{"reasoning": "Hm."}],
    "openrouter": [{"reasoning": "Hm.", "reasoning_details": [{"text": "Hm."}]}],
    "mistral": [{"content": THOUGHTFUL[:1]}],
}


@pytest.mark.parametrize("name", sorted(REASONING))
async def test_thinking_is_told_apart_from_the_answer(name: str) -> None:
    chunks = [openai_chunk(**delta) for delta in REASONING[name]]
    chunks += [openai_chunk(content="Yes."), openai_chunk(finish_reason="stop")]
    pieces = Pieces()
    answer = await call(SIDES[name], [head(), stream(chunks)], pieces)
    assert pieces.deltas == [Delta(reasoning="Hm."), Delta(text="Yes.")]
    assert answer.text == "Yes."


async def test_mistral_thinks_inside_the_content() -> None:
    assert (await call(SIDES["mistral"], whole(THOUGHTFUL))).text == "Grüße, 🐇"
    chunks = (openai_chunk(content=THOUGHTFUL), openai_chunk(finish_reason="stop"))
    pieces = Pieces()
    await call(SIDES["mistral"], [head(), stream(chunks)], pieces)
    assert pieces.deltas == [Delta(reasoning="Hm."), Delta(text="Grüße, 🐇")]


@pytest.mark.parametrize("content", [3, [3], ["x"], [{"type": "text"}], {"a": 1}])
async def test_content_of_no_known_shape_is_a_bad_response(content: object) -> None:
    assert await code_of(SIDES["mistral"], whole(content)) == "provider_bad_response"


HIT = {"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 15}
DETAILS = {"prompt_tokens_details": {"cached_tokens": 5}}
THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 40}}


@pytest.mark.parametrize(
    ("name", "usage", "counted"),
    [
        ("deepseek", {**USAGE, **HIT}, Usage(1, 20, 5, 9, 0)),
        ("together", {**USAGE, "cached_tokens": 5}, Usage(1, 20, 5, 9, 0)),
        ("groq", {**USAGE, **DETAILS, "queue_time": 0.02}, Usage(1, 20, 5, 9, 0)),
        ("openrouter", {**USAGE, **DETAILS, "cost": 0.0021}, Usage(1, 20, 5, 9, 0)),
        ("vllm", {**USAGE, "prompt_tokens_details": None}, Usage(1, 20, 0, 9, 0)),
        ("xai", {**USAGE, **THOUGHT, "total_tokens": 69}, Usage(1, 20, 0, 49, 40)),
        ("gemini", {**USAGE, "total_tokens": 69}, Usage(1, 20, 0, 49, 40)),
        ("openai", {**USAGE, **THOUGHT}, Usage(1, 20, 0, 9, 40)),
    ],
)
async def test_usage_is_read_as_each_service_counts_it(
    name: str, usage: Mapping[str, object], counted: Usage
) -> None:
    side = SIDES[name]
    assert (await call(side, whole(usage=usage))).usage == counted
    alone = {"model": "m", "choices": [], "usage": usage}
    last = {**openai_chunk(finish_reason="stop"), "usage": usage}
    first = openai_chunk(content="Yes.")
    for chunks in (
        [first, last],
        [first, openai_chunk(finish_reason="stop"), alone],
        [first, {**last, "usage": None, "x_groq": {"id": "req_1", "usage": usage}}],
    ):
        answer = await call(side, [head(), stream(chunks)], Pieces())
        assert answer.usage == counted


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [
        ("together", "eos", "stop"),
        ("xai", "end_turn", "stop"),
        ("mistral", "model_length", "length"),
        ("vllm", "repetition", "repetition"),
    ],
)
async def test_reasons_to_finish_are_told_in_one_language(
    name: str, word: str, reason: str
) -> None:
    answer = await call(SIDES[name], whole(finish_reason=word))
    assert answer.finish_reason == reason
    chunks = (openai_chunk(content="Y"), openai_chunk(finish_reason=word))
    answer = await call(SIDES[name], [head(), stream(chunks)], Pieces())
    assert answer.finish_reason == reason


@pytest.mark.parametrize(
    ("name", "word", "code"),
    [
        ("deepseek", "insufficient_system_resource", "stream_cut"),
        ("mistral", "error", "stream_cut"),
        ("openrouter", "error", "stream_cut"),
        ("vllm", "abort", "stream_cut"),
        ("gemini", "content_filter: SAFETY", "content_refused"),
        ("azure", "content_filter", "content_refused"),
    ],
)
async def test_half_an_answer_is_none_whatever_the_reason_is_called(
    name: str, word: str, code: str
) -> None:
    assert await code_of(SIDES[name], whole("I w", finish_reason=word)) == code
    chunks = (openai_chunk(content="I w"), openai_chunk(finish_reason=word))
    assert await code_of(SIDES[name], [head(), stream(chunks)], Pieces()) == code


async def test_azure_filters_before_and_beside_the_answer() -> None:
    verdict = {"hate": {"filtered": False, "severity": "safe"}}
    chunks = (
        {"model": "", "choices": [], "prompt_filter_results": [verdict]},
        openai_chunk(content="Yes."),
        {"choices": [{"index": 0, "content_filter_results": verdict}]},
        openai_chunk(finish_reason="stop"),
    )
    answer = await call(SIDES["azure"], [head(), stream(chunks)], Pieces())
    assert (answer.text, answer.finish_reason, answer.model) == ("Yes.", "stop", "m")


async def test_deepseek_and_openrouter_keep_a_slow_call_alive() -> None:
    shown, body = whole()
    answer = await call(SIDES["deepseek"], [shown, b"\n", b"\n\n", body])
    assert answer.text == "Yes."
    chunks = stream((openai_chunk(content="Yes."), openai_chunk(finish_reason="stop")))
    for comment in (b": keep-alive\n\n", b": OPENROUTER PROCESSING\n\n"):
        live = [head(), comment, comment, chunks]
        assert (await call(SIDES["openrouter"], live, Pieces())).text == "Yes."


# What goes wrong.

DROPPED = {"code": 502, "message": "Provider disconnected", "metadata": {"raw": "x"}}


@pytest.mark.parametrize(
    ("name", "event", "code"),
    [
        ("openrouter", {"choices": [{"index": 0, "error": DROPPED}]}, "unavailable"),
        ("openrouter", {"error": DROPPED, "choices": []}, "unavailable"),
        ("openrouter", {"error": {"code": 429, "message": "up"}}, "rate_limited"),
        ("vllm", {"object": "error", "message": "no", "code": 400}, "rejected"),
        ("vllm", {"error": {"message": "no", "code": 500}}, "unavailable"),
        ("mistral", {"object": "error", "message": "x", "code": "3000"}, "unavailable"),
        ("together", {"error": {"message": "x", "type": "server_error"}}, "unavailable"),
        ("groq", {"error": {"message": "x", "status_code": 500}}, "unavailable"),
    ],
)
async def test_errors_in_the_place_of_an_answer_are_found(
    name: str, event: dict[str, object], code: str
) -> None:
    code = f"provider_{code}"
    side = SIDES[name]
    begun = stream([openai_chunk(content="Y"), event])
    assert await code_of(side, [head(), begun], Pieces()) == code
    assert await code_of(side, [JSON_HEAD, json.dumps(event).encode()]) == code


def gemini(code: int, status: str, message: str, *details: object) -> list[object]:
    error = {"code": code, "status": status, "message": message, "details": details}
    return [{"error": error}]


MISTRAL_422 = {
    "detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs not permitted"}]
}
VLLM_400 = "This model's maximum context length is 8 tokens. However, you asked for 9."
GROQ_JSON = {"code": "json_validate_failed", "failed_generation": "{", "message": "x"}
FLAGGED = "meta/guard requires moderation. Your input was flagged for: violence"
AZURE_KEY = {"code": "401", "message": "Access denied due to invalid subscription key"}
AZURE_FILTER = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's"
    " content management policy.",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}


@pytest.mark.parametrize(
    ("name", "status", "body", "code"),
    [
        ("azure", 400, {"error": AZURE_FILTER}, "content_refused"),
        ("azure", 401, {"error": AZURE_KEY}, "provider_auth"),
        ("azure", 401, {"statusCode": 401, "message": "Unauthorized."}, "provider_auth"),
        ("azure", 404, {"error": {"code": "DeploymentNotFound"}}, "provider_rejected"),
        ("deepseek", 402, {"error": {"message": "Insufficient B."}}, "provider_quota"),
        ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "API key not valid. Please"),
         "provider_auth"),
        ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "The input token count (9)"
         " exceeds the maximum number of tokens allowed (8)."), "context_too_long"),
        ("gemini", 429, gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current"
         " quota, please check your plan"), "provider_rate_limited"),
        ("gemini", 503, gemini(503, "UNAVAILABLE", "overloaded"), "provider_unavailable"),
        ("groq", 400, {"error": GROQ_JSON}, "provider_bad_response"),
        ("groq", 413, {"error": {"code": "rate_limit_exceeded"}}, "context_too_long"),
        ("groq", 498, {"error": {"code": "capacity_exceeded"}}, "provider_overloaded"),
        ("mistral", 400, {"object": "error", "message": "Prompt contains 9 tokens, too"
         " large for model with 8 maximum context length"}, "context_too_long"),
        ("mistral", 401, {"message": "Unauthorized", "request_id": "x"}, "provider_auth"),
        ("mistral", 422, MISTRAL_422, "provider_rejected"),
        ("openrouter", 402, {"error": {"code": 402}}, "provider_quota"),
        ("openrouter", 403, {"error": {"message": FLAGGED}}, "content_refused"),
        ("together", 422, {"error": {"message": "`inputs` tokens + `max_new_tokens` must"
         " be <= 8193. Given: 9000"}}, "context_too_long"),
        ("vllm", 400, {"object": "error", "message": VLLM_400}, "context_too_long"),
        ("vllm", 404, {"detail": "Not Found"}, "provider_rejected"),
        ("xai", 400, {"code": "invalid argument", "error": "Incorrect API key provided:"
         " xa***yz."}, "provider_auth"),
        ("xai", 400, {"code": "invalid argument", "error": "This model's maximum prompt"
         " length is 8 but the request contains 9 tokens."}, "context_too_long"),
        ("xai", 403, {"code": "denied", "error": "The team has used all available credits"
         " or reached its monthly spending limit."}, "provider_quota"),
        ("xai", 403, {"code": "denied", "error": "Content violates usage guidelines."},
         "content_refused"),
    ],
)  # fmt: skip
async def test_error_bodies_are_read_in_every_shape(
    name: str, status: int, body: object, code: str
) -> None:
    failed = await failure(name, refusal(f"{status} Whatever", body))
    assert failed.failure.code == code
    assert failed.failure.status == status


async def test_a_rejection_says_which_field_to_mend() -> None:
    for body in (MISTRAL_422, {"object": "error", "message": MISTRAL_422}):
        failed = await failure("mistral", refusal("422 Unprocessable", body))
        assert "top_k" in failed.failure.message
        assert "Extra inputs not permitted" in failed.failure.message


@pytest.mark.parametrize(
    "body",
    [[], [3], [None], {"error": []}, {"error": {"message": {"detail": [3]}, "code": []}},
     {"detail": [{"loc": 3}]}, {"error": {"details": [3, {"retryDelay": "soon"}]}}],
)  # fmt: skip
async def test_an_error_body_of_no_known_shape_says_nothing(body: object) -> None:
    failed = await failure("gemini", refusal("429 Too Many", body))
    assert failed.failure.code == "provider_rate_limited"
    assert failed.retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [((), 34.07), (("Retry-After: 3",), 3), (("Server: x",), 34.07)],
)
async def test_gemini_says_in_the_body_how_long_to_wait(
    headers: tuple[str, ...], seconds: float
) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
    body = gemini(429, "RESOURCE_EXHAUSTED", "quota", {"violations": []}, retry)
    failed = await failure("gemini", refusal("429 Too Many Requests", body, *headers))
    assert failed.retry_after_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("azure", "apim-request-id"),
        ("deepseek", "x-ds-trace-id"),
        ("mistral", "mistral-correlation-id"),
    ],
)
async def test_ids_of_calls_come_in_headers_of_many_names(name: str, header: str) -> None:
    body = refusal("401 Unauthorized", {"message": "no"}, f"{header}: id-7")
    assert (await failure(name, body)).failure.request_id == "id-7"


async def test_keys_of_every_form_stay_out_of_messages() -> None:
    for key in (
        "sk-or-v1-aaaaaaaaaa",
        "gsk_aaaaaaaaaa",
        "xai-aaaaaaaaaa",
        "AIzaSyaaaaaaa",
    ):
        body = {"error": {"message": f"what is {key} for"}}
        failed = await failure("xai", refusal("422 Unprocessable", body))
        assert key not in failed.failure.message
        assert "what is [key] for" in failed.failure.message


# The clouds.


async def test_vertex_streams_claude_under_a_verb_of_its_own() -> None:
    seen = Seen()
    events = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}},)
    async with answering([head(), stream(events)], seen=seen) as origin:
        provider = opened("vertex-claude", f"{origin}/v1/projects/acme/locations/eu/")
        request = LlmRequest("claude@1", user("Hi"))
        await provider.call(request, timeout_s=5, headers={}, on_delta=Pieces())
        await provider.close()
    sent_head, _, sent_body = seen.requests[0].partition(b"\r\n\r\n")
    models = b"/v1/projects/acme/locations/eu/publishers/anthropic/models"
    assert sent_head.startswith(b"POST %b/claude@1:streamRawPredict HTTP" % models)
    body = json.loads(sent_body)
    assert body.keys() >= {"messages", "stream", "anthropic_version"}
    assert "model" not in body


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("bedrock", "botocore", "openai[bedrock]"),
        ("bedrock-claude", "boto3", "anthropic[bedrock]"),
        ("vertex", "google.auth", "openai[vertex]"),
        ("vertex-claude", "google.auth", "anthropic[vertex]"),
    ],
)
def test_without_a_key_the_missing_extra_is_named(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    lines = f'[providers.{name}]\nbase_url = "{KNOWN[name].base_url}"\nkey_env = ""'
    with pytest.raises(ConfigurationError) as caught:
        open_providers(configured(lines).providers, {})
    assert str(caught.value).startswith(f"providers.{name}: without a key")
    assert extra in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url", "complaint"),
    [
        ("bedrock", "http://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1", "HTTPS"),
        ("vertex", "http://eu-aiplatform.googleapis.com/v1", "HTTPS"),
        ("vertex-claude", "https://eu-aiplatform.googleapis.com/v1", "/projects/NAME"),
    ],
)
def test_an_address_that_cannot_be_the_clouds_is_refused(
    name: str, url: str, complaint: str
) -> None:
    lines = f'[providers.{name}]\nbase_url = "{url}"\nkey_env = "A_KEY"'
    with pytest.raises(ConfigurationError, match=f"providers.{name}: .*{complaint}"):
        open_providers(configured(lines).providers, {"A_KEY": KEY})


@pytest.mark.parametrize(
    ("name", "sdk", "parent"),
    [
        ("bedrock", "openai", "AsyncOpenAI"),
        ("bedrock-claude", "anthropic", "AsyncAnthropicBedrockMantle"),
        ("vertex", "openai", "AsyncOpenAI"),
        ("vertex-claude", "anthropic", "AsyncAnthropicVertex"),
    ],
)
async def test_a_cloud_without_credentials_sends_nothing(
    name: str, sdk: str, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object, request: object) -> None:
        raise LookupError("no profile holds AKIA-secret")

    sdk_class = getattr(import_module(sdk), parent)
    monkeypatch.setattr(sdk_class, "_prepare_request", refuse)
    seen = Seen()
    async with answering([JSON_HEAD], seen=seen) as origin:
        provider = opened(name, f"{origin}/v1/projects/acme/locations/eu")
        request = LlmRequest("m", user("Hi"))
        with pytest.raises(CallFailed) as caught:
            await provider.call(request, timeout_s=5, headers={})
        await provider.close()
    assert caught.value.failure.code == "provider_unreachable"
    assert caught.value.failure.message == (
        f"{name} could not be called: no credentials (LookupError)"
    )
    assert caught.value.before_first_byte
    assert not seen.requests


@pytest.mark.parametrize(
    ("name", "library"), [("bedrock", "botocore"), ("bedrock-claude", "boto3")]
)
async def test_bedrock_signs_where_the_extra_is_installed(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    seen = Seen()
    async with answering([JSON_HEAD, b"{}"], seen=seen) as origin:
        lines = f'[providers.{name}]\nbase_url = "{origin}"\nkey_env = ""'
        provider = open_providers(configured(lines).providers, {})[name]
        with pytest.raises(CallFailed) as caught:
            await provider.call(LlmRequest("m", user("Hi")), timeout_s=5, headers={})
        await provider.close()
    assert caught.value.failure.code == "provider_bad_response"
    sent = seen.requests[0].lower()
    assert b"authorization: aws4-hmac-sha256 credential=akiaexample/" in sent
    assert b"/eu-west-1/bedrock" in sent
