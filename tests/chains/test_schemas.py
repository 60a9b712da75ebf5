"""Inputs and outputs against JSON Schema, and schemas that would do harm."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from chains import Chain, check_schema, fill_inputs, schema_findings
from tests.chains.writing import chain, codes_of, llm, only_finding, written

INPUTS = {
    "text": {"type": "string", "minLength": 1, "maxLength": 10},
    "sentences": {"type": "integer", "maximum": 20, "minimum": 1, "default": 3},
    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2, "default": []},
    "language": {"enum": ["en", "de"], "default": "en"},
}


@pytest.fixture(scope="module")
def summarize() -> Chain:
    return chain(llm("draft"), inputs=INPUTS)


def test_inputs_are_filled_with_the_defaults(summarize: Chain) -> None:
    filled, findings = fill_inputs(summarize, {"text": "hello", "sentences": 5})
    assert findings == []
    assert filled == {"text": "hello", "sentences": 5, "tags": [], "language": "en"}


def test_a_default_is_not_shared_between_jobs(summarize: Chain) -> None:
    filled, _ = fill_inputs(summarize, {"text": "a"})
    filled["tags"].append("mine")
    assert fill_inputs(summarize, {"text": "a"})[0]["tags"] == []


@pytest.mark.parametrize(
    ("given", "pointer", "code", "detail"),
    [
        ({}, "text", "invalid_input", "required: it has no default"),
        ({"text": None}, "text", "invalid_input", "a text, got null"),
        ({"text": 3}, "text", "invalid_input", "a text, got a whole number"),
        ({"text": ""}, "text", "out_of_range", "at least 1 characters, got 0"),
        ({"text": "x" * 11}, "text", "out_of_range", "at most 10 characters, got 11"),
        ({"sentences": 50}, "sentences", "out_of_range", "at most 20, got 50"),
        ({"sentences": 0}, "sentences", "out_of_range", "at least 1, got 0"),
        ({"sentences": True}, "sentences", "invalid_input",
         "a whole number, got true or false"),
        ({"sentences": 1.5}, "sentences", "invalid_input",
         "a whole number, got a number"),
        ({"tags": ["a", "b", "c"]}, "tags", "out_of_range", "at most 2 items, got 3"),
        ({"tags": ["a", 3]}, "tags/1", "invalid_input", "a text, got a whole number"),
        ({"language": "fr"}, "language", "invalid_input", "one of 'en', 'de'; got 'fr'"),
        ({"sentence": 3}, "sentence", "unknown_field",
         "the chain has no such input; did you mean sentences?"),
        ({"text": "a\0"}, "text", "nul_not_allowed", None),
        ({"text": "\ud800"}, "text", "invalid_unicode", None),
        ({"text": float("nan")}, "text", "invalid_number", None),
        ({"a/b~c": 1}, "a~1b~0c", "unknown_field", None),
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_is_told_with_place_and_bound(
    summarize: Chain, given: dict[str, Any], pointer: str, code: str, detail: str | None
) -> None:
    _, findings = fill_inputs(summarize, given if not given else {"text": "a"} | given)
    (finding,) = findings
    assert (finding.pointer, finding.code) == (f"/inputs/{pointer}", code)
    assert detail in (None, finding.detail)
    if code == "out_of_range":
        assert finding.limit is not None


def test_all_inputs_that_do_not_fit_are_told_at_once(summarize: Chain) -> None:
    _, findings = fill_inputs(summarize, {"sentences": 50, "tags": 1, "x": 1})
    assert [finding.pointer for finding in findings] == [
        "/inputs/sentences", "/inputs/tags", "/inputs/text", "/inputs/x",
    ]  # fmt: skip


def test_a_long_value_is_not_repeated_in_a_finding(summarize: Chain) -> None:
    _, findings = fill_inputs(summarize, {"text": "a", "language": "s3cret" * 1000})
    assert len(findings[0].detail) < 200


def test_inputs_deeper_than_the_stores_take_are_refused_not_followed() -> None:
    anything = chain(llm("a"), inputs={"x": {}})
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    _, findings = fill_inputs(anything, {"x": deep})
    assert [finding.code for finding in findings] == ["too_deep"]
    assert [f.code for f in schema_findings({"type": "array"}, deep)] == ["too_deep"]


def test_an_output_is_judged_by_the_schema_of_its_step() -> None:
    schema = {
        "type": "object",
        "properties": {"score": {"type": "integer", "maximum": 10}},
        "required": ["score", "notes"],
        "additionalProperties": False,
    }
    assert schema_findings(schema | {"required": []}, {"score": 3}) == []
    found = {f.pointer: f.code for f in schema_findings(schema, {"score": 11, "x": 1})}
    assert found == {
        "/score": "out_of_range",
        "/notes": "invalid_input",
        "/x": "unknown_field",
    }


def test_formats_are_checked() -> None:
    assert schema_findings({"format": "date"}, "2026-11-20") == []
    assert schema_findings({"format": "date"}, "tomorrow") != []


def doubling(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)
    }
    return {"$defs": definitions | {f"d{levels}": {}}, "$ref": "#/$defs/d0"}


def chained(links: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{n}": {"$ref": f"#/$defs/d{n - 1}"} for n in range(1, links)
    }
    return {"$defs": {"d0": {}} | definitions}


@pytest.mark.parametrize(
    "schema",
    [
        3,
        True,
        {"type": "strin"},
        {"type": "object", "properties": {"a": 3}},
        {"maximum": "20"},
        {"pattern": "("},
        {"pattern": "(?=a)(a+)+$"},
        {"pattern": "(a{1000}){1000}"},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "other.json"},
        {"items": {"$dynamicRef": "http://127.0.0.1:9/x"}},
        {"$id": "http://127.0.0.1:9/", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"$ref": "#"},
        {"items": {"$ref": "#"}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/gone"},
        doubling(40),
        chained(1500),
    ],
)
def test_a_schema_that_is_unsound_or_could_do_harm_is_refused(schema: Any) -> None:
    started = time.perf_counter()
    findings = check_schema(schema, "/here")
    assert {finding.code for finding in findings} == {"invalid_schema"}
    assert all(finding.pointer.startswith("/here") for finding in findings)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"items": {"$ref": "#"}}, "# refers to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}}, "#/$defs/a refers to itself"),
        ({"$ref": "#/$defs/gone"}, "#/$defs/gone is not there"),
        ({"$ref": "https://example.com/x"}, "https://example.com/x is outside"),
        ({"$anchor": "x"}, "$anchor is not supported"),
        (doubling(40), "at most 10000 values"),
        (chained(1500), "more than 50 references in a row"),
    ],
)
def test_a_refused_reference_is_named(schema: Any, words: str) -> None:
    (finding,) = check_schema(schema)
    assert words in finding.detail


def test_a_reference_elsewhere_is_never_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"}
        assert check_schema(schema) != []
        with pytest.raises(ValueError, match="disabled"):  # even if nobody checked
            schema_findings(schema, 3)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}},
        {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
        {"$defs": {"a/b": {}}, "$ref": "#/$defs/a~1b"},
        {"pattern": "^(a+)+$"},
        doubling(5),
        chained(40),
    ],
)
def test_an_ordinary_schema_is_sound(schema: Any) -> None:
    assert check_schema(schema) == []


def test_a_pattern_takes_time_in_line_with_the_text() -> None:
    started = time.perf_counter()
    assert schema_findings({"pattern": "^(a+)+$"}, "a" * 100_000 + "!")
    assert time.perf_counter() - started < 1


def test_a_type_that_does_not_exist_is_told_with_the_one_that_was_meant() -> None:
    finding = only_finding(written(llm("a"), inputs={"x": {"type": "strin"}}))
    assert finding.pointer == "/inputs/x/type"
    assert finding.detail.endswith("did you mean string?")


def test_a_default_must_fit_its_own_schema() -> None:
    found = codes_of(written(llm("a"), inputs={"n": {"maximum": 20, "default": 50}}))
    assert found == {"/inputs/n/default": "out_of_range"}


def test_the_schema_of_a_step_is_checked_where_it_is_written() -> None:
    step = llm("a")
    step["llm"]["schema"] = {"properties": {"x": {"$ref": "https://example.com/x"}}}
    finding = only_finding(written(step))
    assert (finding.pointer, finding.code) == ("/steps/0/llm/schema", "invalid_schema")
    assert "outside" in finding.detail
