from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import PROBLEMS, Problem
from gateway.idempotency import body_hash
from gateway.submission import job_request
from llmgine_workers.engine.submit import JobRequest, Options


def found_in(body: Any) -> dict[str, str]:
    """Pointer -> code of everything that is wrong with a body."""
    with pytest.raises(Problem) as caught:
        job_request(body)
    assert PROBLEMS[caught.value.code].status == 422
    return {one["pointer"]: one["code"] for one in caught.value.findings}


def with_options(**options: Any) -> dict[str, Any]:
    return {"chain": "summarize", "options": options}


def test_a_name_and_inputs_are_enough() -> None:
    assert job_request({"chain": "summarize", "inputs": {"text": "x"}}) == JobRequest(
        chain="summarize", inputs={"text": "x"}, options=Options()
    )


def test_every_field_reaches_the_engine() -> None:
    body = {
        "tool": "word_count",
        "arguments": {"text": "x"},
        "metadata": {"order": "A-17"},
        "options": {
            "priority": "batch", "timeout": "90s", "max_attempts": 3,
            "max_cost_usd": 0.05, "stream": False, "webhook": None,
        },
    }  # fmt: skip
    assert job_request(body) == JobRequest(
        tool="word_count",
        arguments={"text": "x"},
        metadata={"order": "A-17"},
        options=Options("batch", 90.0, 3, 0.05, False),
    )


def test_a_chain_may_be_written_out() -> None:
    chain = {"name": "mine", "steps": []}
    assert job_request({"chain": chain}).chain == chain


@pytest.mark.parametrize("body", [{}, [], None, "summarize", 7, {"inputs": {}}])
def test_a_body_that_asks_for_nothing_does_not_fit(body: Any) -> None:
    assert found_in(body) == {"": "invalid_input"}


@pytest.mark.parametrize(
    "body",
    [
        {"chain": "a", "tool": "b"},
        {"tool": "b", "inputs": {"x": 1}},
        {"chain": "a", "arguments": {"x": 1}},
    ],
)
def test_a_body_asks_for_one_thing(body: Any) -> None:
    assert found_in(body) == {"": "invalid_input"}


@pytest.mark.parametrize("chain", [7, [], True, "", "x" * 201])
def test_a_chain_is_a_name_or_an_object(chain: Any) -> None:
    assert found_in({"chain": chain}) == {"/chain": "invalid_input"}


def test_unknown_fields_are_named_with_the_nearest_known_one() -> None:
    with pytest.raises(Problem) as caught:
        job_request({"chain": "a", "optoins": {}, "tenant_id": "other"})
    found = {one["pointer"]: one for one in caught.value.findings}
    assert {one["code"] for one in found.values()} == {"unknown_field"}
    assert "did you mean options?" in found["/optoins"]["detail"]
    assert "/tenant_id" in found


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("priority", "high", "out_of_range"),
        ("priority", 11, "out_of_range"),
        ("timeout", "999ms", "out_of_range"),
        ("timeout", "25h", "out_of_range"),
        ("timeout", "soon", "invalid_input"),
        ("timeout", "-5s", "invalid_input"),
        ("timeout", 600, "invalid_input"),
        ("max_attempts", 0, "out_of_range"),
        ("max_attempts", 21, "out_of_range"),
        ("max_attempts", 1.5, "invalid_input"),
        ("max_attempts", "5", "invalid_input"),
        ("max_attempts", True, "invalid_input"),
        ("max_cost_usd", 0, "out_of_range"),
        ("max_cost_usd", -0.05, "out_of_range"),
        ("max_cost_usd", "0.05", "invalid_input"),
        ("stream", "yes", "invalid_input"),
        ("stream", 1, "invalid_input"),
        ("webhook", "https://example.com/" + "a" * 2048, "out_of_range"),
        ("delay", "5s", "unknown_field"),
    ],
)
def test_an_option_out_of_its_range_is_named(option: str, value: Any, code: str) -> None:
    assert found_in(with_options(**{option: value})) == {f"/options/{option}": code}


@pytest.mark.parametrize("timeout", ["1s", "1000ms", "24h", "1d", "1.5m"])
def test_a_timeout_from_a_second_to_a_day_is_taken(timeout: str) -> None:
    assert 1 <= job_request(with_options(timeout=timeout)).options.timeout_s <= 86_400


def test_a_finding_says_its_limit() -> None:
    with pytest.raises(Problem) as caught:
        job_request(with_options(max_attempts=50))
    assert caught.value.findings == [
        {"pointer": "/options/max_attempts", "code": "out_of_range",
         "detail": "at most 20, got 50", "limit": 20},
    ]  # fmt: skip
    assert caught.value.detail == "options.max_attempts at most 20, got 50"


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"order": 17}, {"/metadata/order": "invalid_input"}),
        ({"a/b": "x" * 513}, {"/metadata/a~1b": "out_of_range"}),
        ({f"k{n}": "" for n in range(17)}, {"/metadata": "out_of_range"}),
        (["order"], {"/metadata": "invalid_input"}),
    ],
)
def test_metadata_is_a_few_short_texts(metadata: Any, found: dict[str, str]) -> None:
    assert found_in({"chain": "a", "metadata": metadata}) == found


def test_metadata_at_its_limits_is_taken() -> None:
    metadata = {f"k{n}": "x" * 512 for n in range(16)}
    assert job_request({"chain": "a", "metadata": metadata}).metadata == metadata


def test_all_findings_are_told_at_once() -> None:
    body = {
        "chain": "a", "extra": 1, "metadata": {"n": 1},
        "options": {"priority": "high", "max_attempts": 0},
    }  # fmt: skip
    assert found_in(body) == {
        "/extra": "unknown_field",
        "/metadata/n": "invalid_input",
        "/options/priority": "out_of_range",
        "/options/max_attempts": "out_of_range",
    }


def test_the_hash_of_a_body_is_of_what_it_says_and_not_of_how() -> None:
    assert body_hash({"a": 1, "b": [1, 2]}) == body_hash({"b": [1, 2], "a": 1})
    assert body_hash({"a": 1, "b": [1, 2]}) != body_hash({"a": 1, "b": [2, 1]})
    assert body_hash({"a": 1}) != body_hash({"a": "1"})
