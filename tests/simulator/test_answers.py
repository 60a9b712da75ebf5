"""Answers: pure functions of seed, model and messages, of the right size and shape."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.simulator import Simulator, count_tokens
from llmgine_workers.simulator.schema import instance, schema_in
from llmgine_workers.simulator.text import sentences, topics_of, truncate
from tests.simulator.conftest import Start, ask_openai


async def text(simulator: Simulator, prompt: str, **options: Any) -> str:
    reply = await ask_openai(simulator, prompt, **options)
    return str(reply.choices[0].message.content)


async def test_the_same_seed_model_and_messages_give_the_same_text(start: Start) -> None:
    one, other = await start(seed=1), await start(seed=1)
    assert (
        await text(one, "Hello") == await text(other, "Hello") == await text(one, "Hello")
    )


async def test_seed_model_and_messages_each_matter(start: Start) -> None:
    one, other = await start(seed=1), await start(seed=2)
    texts = {
        await text(one, "Hello"),
        await text(other, "Hello"),
        await text(one, "Hello", model="gpt-5"),
        await text(one, "Hello!"),
    }
    assert len(texts) == 4


async def test_the_length_can_be_set(start: Start) -> None:
    simulator = await start(answer_tokens=25)
    reply = await ask_openai(simulator, "Hello")
    assert reply.usage.completion_tokens == 25


async def test_an_answer_speaks_of_its_prompt_but_repeats_no_directive(
    simulator: Simulator,
) -> None:
    prompt = "Summarize: harvests failed across northern regions. [[sim:tokens=300]]"
    answer = await text(simulator, prompt)
    assert "harvests" in answer
    assert "sim:" not in answer


@given(st.integers(0, 2**64 - 1), st.integers(1, 400), st.text(max_size=300))
def test_sentences_have_exactly_the_tokens_asked_for(
    seed: int, tokens: int, prompt: str
) -> None:
    answer = sentences(seed, topics_of(prompt), tokens)
    assert count_tokens(answer) == tokens
    assert answer == sentences(seed, topics_of(prompt), tokens)


@given(st.text(), st.integers(0, 50))
def test_truncating_keeps_a_beginning_that_fits(whole: str, tokens: int) -> None:
    part = truncate(whole, tokens)
    assert whole.startswith(part)
    assert count_tokens(part) <= tokens
    assert part == whole or count_tokens(whole[: len(part) + 1]) > tokens


@pytest.mark.parametrize(
    ("words", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fives", 2), ("é" * 4, 2)]
)
def test_a_token_is_four_bytes_rounded_up(words: str, tokens: int) -> None:
    assert count_tokens(words) == tokens


SCHEMAS: list[dict[str, Any]] = [
    {"type": "string", "minLength": 200, "maxLength": 210},
    {"type": "string", "maxLength": 3},
    {"enum": ["a", 2, None]},
    {"const": {"a": 1}},
    {"type": "integer", "minimum": 3, "maximum": 4},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "minimum": 1, "maximum": 20, "multipleOf": 7},
    {"type": "integer", "maximum": -5, "minimum": -9},
    {"type": "number", "minimum": 0.1, "maximum": 0.2},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["null", "integer"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "required": ["free"]},
    {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}},
            {"properties": {"b": {"type": "boolean"}}, "required": ["a", "b"]},
        ]
    },
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "questions": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
            "when": {"type": "string", "format": "date-time"},
            "nested": {
                "type": "object",
                "properties": {"score": {"type": "number"}},
                "required": ["score"],
            },
        },
        "required": ["questions", "when", "nested"],
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "children"],
            }
        },
        "$ref": "#/$defs/node",
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:40])
def test_an_instance_fits_its_schema(schema: dict[str, Any]) -> None:
    for seed in range(30):
        jsonschema_rs.validate(schema, instance(schema, seed))
    assert instance(schema, 1) == instance(schema, 1)


def test_a_schema_is_found_in_a_prompt_that_asks_for_json() -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "string"}}}'
    assert schema_in(f"Answer JSON like {{x}} by:\n```\n{schema}\n```") is not None
    assert schema_in(f"No object is wanted: {schema}") is None
    assert schema_in('JSON with "properties" but none written out {') is None
