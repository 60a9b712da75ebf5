"""The Messages format, read by the service's own SDK."""

import json
from typing import Any

import aiohttp
import anthropic
import pytest

from llmgine_workers.simulator import Simulator, count_tokens
from llmgine_workers.simulator.anthropic_wire import ERRORS
from llmgine_workers.simulator.faults import STATUS_OF
from tests.simulator.conftest import Start, anthropic_sdk, ask_anthropic, user

WEATHER = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


async def test_a_plain_answer_has_every_field_of_the_real_one(
    simulator: Simulator,
) -> None:
    reply = await ask_anthropic(simulator, "Summarize the report.", system="Be brief.")
    assert (reply.type, reply.role, reply.model) == (
        "message",
        "assistant",
        "claude-haiku-5",
    )
    assert reply.stop_reason == "end_turn"
    assert reply.stop_sequence is None
    [block] = reply.content
    assert reply.usage.output_tokens == count_tokens(block.text)
    texts = ("Be brief.", "Summarize the report.")
    assert reply.usage.input_tokens == sum(count_tokens(t) + 4 for t in texts) + 3


async def test_a_stream_is_the_documented_sequence_of_events(
    simulator: Simulator,
) -> None:
    body = {"model": "m", "max_tokens": 500, "messages": user("hello"), "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{simulator.url}/v1/messages", json=body) as response,
    ):
        text = await response.text()
    events = [event.split("\n") for event in text.split("\n\n")[:-1]]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[3:-3] == ["content_block_delta"] * 20
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert [item["type"] for item in data] == names
    assert data[0]["message"]["stop_reason"] is None
    assert data[0]["message"]["content"] == []


async def test_the_sdk_puts_a_stream_together_to_the_plain_answer(
    simulator: Simulator,
) -> None:
    plain = await ask_anthropic(simulator, "Tell me about queues.")
    async with (
        anthropic_sdk(simulator).messages.stream(
            model="claude-haiku-5",
            max_tokens=1000,
            messages=[{"role": "user", "content": "Tell me about queues."}],
        ) as stream,
    ):
        whole = await stream.get_final_message()
    assert whole.content[0].type == "text"
    assert whole.content[0].text == plain.content[0].text
    assert whole.stop_reason == "end_turn"
    assert whole.usage.input_tokens == plain.usage.input_tokens
    assert whole.usage.output_tokens == plain.usage.output_tokens


async def test_max_tokens_cuts_the_answer_and_says_so(simulator: Simulator) -> None:
    reply = await ask_anthropic(simulator, "Be long.", max_tokens=10)
    assert reply.stop_reason == "max_tokens"
    assert reply.usage.output_tokens == 10


async def test_a_tool_is_called_first_and_its_result_answered_in_words(
    simulator: Simulator,
) -> None:
    reply = await ask_anthropic(simulator, "Weather in Rome?", tools=[WEATHER])
    assert reply.stop_reason == "tool_use"
    [block] = reply.content
    assert block.name == "get_weather"
    assert isinstance(block.input["city"], str)
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
    called = {"role": "assistant", "content": [block.model_dump(exclude_none=True)]}
    messages = [*user("Weather in Rome?"), called, {"role": "user", "content": [result]}]
    answer = await ask_anthropic(simulator, "", messages=messages, tools=[WEATHER])
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].text


async def test_streamed_tool_use_adds_up_to_the_wished_input(
    simulator: Simulator,
) -> None:
    prompt = '[[sim:tool=get_weather,get_weather]][[sim:args={"city": "Rome"}]]'
    async with (
        anthropic_sdk(simulator).messages.stream(
            model="m",
            max_tokens=100,
            messages=[{"role": "user", "content": prompt}],
            tools=[{"name": "get_weather", "input_schema": {"type": "object"}}],
        ) as stream,
    ):
        whole = await stream.get_final_message()
    inputs = [block.input for block in whole.content if block.type == "tool_use"]
    assert inputs == [{"city": "Rome"}, {"city": "Rome"}]
    assert whole.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "none"}, False),
        ({"type": "any"}, True),
        ({"type": "tool", "name": "get_weather"}, True),
    ],
)
async def test_the_tool_choice_is_obeyed(
    start: Start, choice: dict[str, str], called: bool
) -> None:
    simulator = await start(tool_rate=0.0)
    reply = await ask_anthropic(simulator, "Hi", tools=[WEATHER], tool_choice=choice)
    assert (reply.stop_reason == "tool_use") is called


SCORE = {"type": "object", "properties": {"score": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (
            "Score it.",
            {"output_config": {"format": {"type": "json_schema", "schema": SCORE}}},
        ),
        (f"Score it. Answer only JSON that fits {json.dumps(SCORE)}.", {}),
        ("Score it.", {"system": f"Answer JSON of this schema:\n{json.dumps(SCORE)}"}),
    ],
)
async def test_a_schema_is_answered_with_an_object_that_fits(
    simulator: Simulator, prompt: str, options: dict[str, Any]
) -> None:
    reply = await ask_anthropic(simulator, prompt, **options)
    assert isinstance(json.loads(reply.content[0].text)["score"], int)


async def test_cached_tokens_are_counted_beside_the_input_as_the_real_ones(
    start: Start,
) -> None:
    simulator = await start(cached_share=0.5, reasoning_tokens=30)
    usage = (await ask_anthropic(simulator, "word " * 100)).usage
    total = usage.input_tokens + usage.cache_read_input_tokens
    assert usage.cache_read_input_tokens == total // 2
    assert usage.output_tokens_details.thinking_tokens == 30
    call = simulator.calls[0]
    assert (call.input_tokens, call.cached_input_tokens) == (total, total // 2)
    assert (call.output_tokens, call.reasoning_tokens) == (usage.output_tokens, 30)


async def test_models_are_listed_in_this_services_shape(start: Start) -> None:
    simulator = await start(models=("claude-haiku-5",))
    client = anthropic_sdk(simulator)
    page = await client.models.list()
    assert [(model.id, model.lifecycle) for model in page.data] == [
        ("claude-haiku-5", "active")
    ]


async def test_a_bad_key_is_refused_in_this_services_shape(start: Start) -> None:
    simulator = await start(require_key=True)
    client = anthropic_sdk(simulator, key="bad")
    with pytest.raises(anthropic.AuthenticationError) as caught:
        await client.messages.create(
            model="m", max_tokens=5, messages=[{"role": "user", "content": "Hi"}]
        )
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"
    assert body["request_id"] == caught.value.request_id == simulator.calls[0].request_id


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": None},
        {"max_tokens": True},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"system": 7},
        {"tools": [{"input_schema": {}}]},
        {"output_config": {"format": {"type": "json_schema"}}},
    ],
)
async def test_a_bad_body_is_refused(
    simulator: Simulator, change: dict[str, Any]
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await ask_anthropic(simulator, "Hi", extra_body=change)
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"


def test_every_status_fault_has_its_error() -> None:
    assert ERRORS.keys() == STATUS_OF.keys()
