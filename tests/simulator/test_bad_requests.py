"""Whatever JSON arrives is answered or refused; nothing makes the simulator stumble."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine_workers.simulator import SimulatorConfig
from llmgine_workers.simulator.answer import compose
from llmgine_workers.simulator.anthropic_wire import AnthropicWire
from llmgine_workers.simulator.directives import Directives
from llmgine_workers.simulator.embeddings import embed, read_inputs
from llmgine_workers.simulator.openai_wire import OpenAIWire
from llmgine_workers.simulator.prompt import BadRequestError
from llmgine_workers.simulator.schema import instance
from llmgine_workers.simulator.wire import Reply, Wire

# The words of both formats, so that random objects look like requests.
KEYS = st.sampled_from((
    "type", "name", "function", "parameters", "input_schema", "text", "role", "content",
    "schema", "json_schema", "format", "properties", "items", "enum", "minimum",
    "maximum", "multipleOf", "minItems", "maxLength", "required", "anyOf", "allOf",
    "$ref", "input", "prefixItems", "tool_calls", "id", "include_usage", "max_tokens",
))  # fmt: skip
WORDS = st.sampled_from((
    "user", "assistant", "tool", "text", "object", "array", "string", "integer", "number",
    "json_schema", "#/a", "tool_use", "tool_result", "none", "any", "required",
))  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(-9, 9) | st.text() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
BOTH = ("model", "messages", "tools", "tool_choice", "stream", "max_tokens")
FIELDS = {
    "openai": (*BOTH, "response_format", "stream_options", "max_completion_tokens"),
    "anthropic": (*BOTH, "system", "output_config"),
}
WIRES: dict[str, Wire] = {"openai": OpenAIWire(), "anthropic": AnthropicWire()}


def answered_or_refused(wire: Wire, body: Mapping[str, Any]) -> None:
    try:
        prompt = wire.read(body)
        answer = compose(prompt, Directives(), SimulatorConfig())
    except BadRequestError:
        return
    reply = Reply("req_1", 0)
    assert json.loads(wire.whole(answer, prompt, reply))
    assert wire.stream(answer, prompt, reply, 5).closing


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@given(data=st.data())
@settings(max_examples=150)
def test_any_field_may_hold_anything(wire: str, data: st.DataObject) -> None:
    good = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    names = st.sampled_from(FIELDS[wire])
    change = data.draw(st.dictionaries(names, VALUES, max_size=2))
    answered_or_refused(WIRES[wire], {**good, **change})


@given(st.dictionaries(KEYS, VALUES, max_size=5))
@settings(max_examples=150)
def test_any_object_may_stand_for_a_schema(schema: dict[str, Any]) -> None:
    try:
        json.dumps(instance(schema, 1))
    except BadRequestError:
        return


@given(VALUES, VALUES)
def test_anything_may_be_asked_to_be_embedded(given_input: Any, dimensions: Any) -> None:
    body = {"model": "m", "input": given_input, "dimensions": dimensions}
    try:
        assert embed(read_inputs(body), body, 1)
    except BadRequestError:
        return
