"""The Chat Completions format, read by the service's own SDK."""

import json
from typing import Any

import aiohttp
import openai
import pytest

from llmgine_workers.simulator import Simulator, count_tokens
from llmgine_workers.simulator.faults import STATUS_OF
from llmgine_workers.simulator.openai_wire import ERRORS
from tests.simulator.conftest import Start, ask_openai, openai_sdk, user

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


async def raw_events(simulator: Simulator, body: dict[str, Any]) -> list[str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.headers["Content-Type"].startswith("text/event-stream")
        text = await response.text()
    assert text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]


async def test_a_plain_answer_has_every_field_of_the_real_one(
    simulator: Simulator,
) -> None:
    reply = await ask_openai(simulator, "Summarize the harvest report.")
    assert reply.object == "chat.completion"
    assert reply.model == "gpt-5-mini"
    [choice] = reply.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.refusal is None
    assert reply.usage.completion_tokens == count_tokens(choice.message.content)
    assert reply.usage.prompt_tokens == count_tokens("Summarize the harvest report.") + 7
    tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.total_tokens == tokens


async def test_a_stream_carries_the_same_text_in_chunks(simulator: Simulator) -> None:
    plain = await ask_openai(simulator, "Tell me about queues.")
    chunks = await ask_openai(simulator, "Tell me about queues.", stream=True)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    text = "".join(delta.content or "" for delta in deltas)
    assert text == plain.choices[0].message.content
    assert sum(1 for delta in deltas if delta.content) == 20
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_comes_last_without_choices_when_asked_for(
    simulator: Simulator,
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    plain = await ask_openai(simulator, "How many tokens?")
    *chunks, last = await ask_openai(simulator, "How many tokens?", **options)
    assert last.choices == []
    assert last.usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_raw_stream_ends_with_done(simulator: Simulator) -> None:
    body = {"model": "m", "messages": user("hello"), "stream": True}
    events = await raw_events(simulator, body)
    assert events[-1] == "[DONE]"
    frames = [json.loads(event) for event in events[:-1]]
    assert all("usage" not in frame for frame in frames)
    assert frames[-1]["choices"][0]["delta"] == {}
    assert "obfuscation" in frames[1]


async def test_frames_are_not_padded_when_the_client_declines(
    simulator: Simulator,
) -> None:
    body = {"model": "m", "messages": user("hello"), "stream": True}
    body["stream_options"] = {"include_usage": True, "include_obfuscation": False}
    frames = [json.loads(event) for event in (await raw_events(simulator, body))[:-1]]
    assert all("obfuscation" not in frame for frame in frames)
    assert [("usage" in frame) for frame in frames] == [True] * len(frames)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_max_tokens_cuts_the_answer_and_says_so(
    simulator: Simulator, field: str
) -> None:
    reply = await ask_openai(simulator, "Be long.", **{field: 10})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 10
    assert count_tokens(reply.choices[0].message.content) == 10


async def test_a_tool_is_called_first_and_its_result_answered_in_words(
    simulator: Simulator,
) -> None:
    reply = await ask_openai(simulator, "Weather in Rome?", tools=[WEATHER])
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    [call] = message.tool_calls
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*user("Weather in Rome?"), message.model_dump(), result]
    answer = await ask_openai(simulator, "", messages=messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


async def test_streamed_tool_calls_add_up_to_the_plain_ones(simulator: Simulator) -> None:
    prompt = '[[sim:tool=get_weather,get_weather]][[sim:args={"city": "Rome"}]]'
    chunks = await ask_openai(simulator, prompt, tools=[WEATHER], stream=True)
    arguments = {0: "", 1: ""}
    ids = set()
    for delta in (chunk.choices[0].delta for chunk in chunks):
        for call in delta.tool_calls or ():
            arguments[call.index] += call.function.arguments
            ids.add(call.id)
    assert arguments == {0: '{"city": "Rome"}', 1: '{"city": "Rome"}'}
    assert len(ids - {None}) == 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", False),
        ("required", True),
        ({"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
async def test_the_tool_choice_is_obeyed(start: Start, choice: Any, called: bool) -> None:
    simulator = await start(tool_rate=0.0)
    reply = await ask_openai(simulator, "Hi", tools=[WEATHER], tool_choice=choice)
    assert bool(reply.choices[0].message.tool_calls) is called


async def test_a_json_schema_is_answered_with_an_object_that_fits(
    simulator: Simulator,
) -> None:
    schema = {
        "type": "object",
        "properties": {"score": {"type": "integer"}, "notes": {"type": "string"}},
        "required": ["score", "notes"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "review", "schema": schema}}
    reply = await ask_openai(simulator, "Review it.", response_format=form)
    answer = json.loads(reply.choices[0].message.content)
    assert isinstance(answer["score"], int)
    assert isinstance(answer["notes"], str)


async def test_json_mode_takes_the_schema_from_the_prompt(simulator: Simulator) -> None:
    prompt = (
        'Answer as JSON: {"type": "object", "properties": {"n": {"type": "integer"}}}'
    )
    form = {"type": "json_object"}
    reply = await ask_openai(simulator, prompt, response_format=form)
    assert isinstance(json.loads(reply.choices[0].message.content)["n"], int)
    reply = await ask_openai(simulator, "Any object.", response_format=form)
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


async def test_cached_and_reasoning_tokens_are_reported_as_the_real_ones(
    start: Start,
) -> None:
    simulator = await start(cached_share=0.5, reasoning_tokens=30)
    reply = await ask_openai(simulator, "word " * 100)
    usage = reply.usage
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 2
    assert usage.completion_tokens_details.reasoning_tokens == 30
    visible = count_tokens(reply.choices[0].message.content)
    assert usage.completion_tokens == visible + 30


async def test_embeddings_of_texts_that_share_words_are_close(
    simulator: Simulator,
) -> None:
    client = openai_sdk(simulator)
    texts = ["wheat prices rose", "wheat prices fell", "a quiet evening"]
    reply = await client.embeddings.create(model="e", input=texts)
    floats = await client.embeddings.create(
        model="e", input=texts[0], encoding_format="float", dimensions=256
    )
    wheat, also_wheat, evening = (item.embedding for item in reply.data)
    assert _dot(wheat, wheat) == pytest.approx(1.0, abs=1e-5)
    assert _dot(wheat, also_wheat) > _dot(wheat, evening) + 0.2
    assert floats.data[0].embedding == pytest.approx(wheat, abs=1e-6)
    assert reply.usage.prompt_tokens == sum(map(count_tokens, texts))


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


async def test_models_are_listed(start: Start) -> None:
    simulator = await start(models=("gpt-5", "gpt-5-mini"))
    client = openai_sdk(simulator)
    listed = await client.models.list()
    assert [model.id for model in listed.data] == ["gpt-5", "gpt-5-mini"]


async def test_an_unknown_model_is_not_found(start: Start) -> None:
    simulator = await start(models=("gpt-5",))
    with pytest.raises(openai.NotFoundError) as caught:
        await ask_openai(simulator, "Hi", model="gpt-1")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("key", ["", "bad"])
async def test_a_missing_or_bad_key_is_refused_when_keys_are_required(
    start: Start, key: str
) -> None:
    simulator = await start(require_key=True)
    url = f"{simulator.url}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": "m", "messages": user("Hi")}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=body) as response,
    ):
        assert response.status == 401
        assert (await response.json())["error"]["code"] == "invalid_api_key"
    await ask_openai(simulator, "Hi")
    assert [call.ended for call in simulator.calls] == ["refused", "completed"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
    ],
)
async def test_a_bad_body_is_refused_naming_the_field(
    simulator: Simulator, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask_openai(simulator, "Hi", extra_body=change)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "\xff"}', b"[" * 99999])
async def test_a_body_that_is_no_json_object_is_refused(
    simulator: Simulator, body: bytes
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/v1/chat/completions", data=body) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_every_reply_has_a_request_id_that_the_log_knows(
    simulator: Simulator,
) -> None:
    client = openai_sdk(simulator)
    reply = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hi"}],
    )
    assert reply._request_id == simulator.calls[0].request_id


def test_every_status_fault_has_its_error() -> None:
    assert ERRORS.keys() == STATUS_OF.keys()
