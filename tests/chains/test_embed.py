"""`embed` steps, and numbers that are filled in."""

from __future__ import annotations

from typing import Any

import pytest

from chains import Chain, Plan, canonical, plan
from tests.chains.writing import JOB, chain, llm, only_finding, returned, tool, written


def embed(**call: Any) -> dict[str, Any]:
    whole = {"model": "openai/e", "input": "{{ inputs.texts }}", **call}
    return {"name": "vectors", "embed": whole}


def begun(of: Chain, **inputs: Any) -> Plan:
    return plan(of, inputs, {}, JOB)


def test_a_list_of_texts_becomes_one_call_for_all_of_them() -> None:
    some = chain(embed(dimensions=64), inputs={"texts": {}})
    (step,) = begun(some, texts=["one", "two"]).ready
    assert (step.kind, step.models) == ("embed", ("openai/e",))
    assert step.request == {
        "input": ["one", "two"], "encoding": "float", "dimensions": 64,
    }  # fmt: skip


def test_one_text_is_a_list_of_one_and_texts_can_be_filled_in_one_by_one() -> None:
    (step,) = begun(chain(embed(), inputs={"texts": {}}), texts="one").ready
    assert step.request["input"] == ["one"]
    each = chain(embed(input=["a {{ inputs.x }}", "b"]), inputs={"x": {}})
    (step,) = begun(each, x="c").ready
    assert step.request["input"] == ["a c", "b"]


def test_the_vectors_and_the_model_are_there_for_the_steps_below() -> None:
    use = {"first": "{{ steps.vectors.output.0 }}"}
    some = chain(embed(), tool("use", use), inputs={"texts": {}})
    done = {"vectors": returned([[0.5, 1.0]])}
    (step,) = plan(some, {"texts": ["x"]}, done, JOB).ready
    assert step.request["arguments"] == {"first": [0.5, 1.0]}
    named = tool("use", {"x": "{{ steps.vectors.model }}"})
    assert chain(embed(), named, inputs={"texts": {}})
    none = tool("use", {"x": "{{ steps.vectors.text }}"})
    assert only_finding(written(embed(), none, inputs={"texts": {}})).code == (
        "unknown_name"
    )


@pytest.mark.parametrize("texts", [[], "", ["a", ""], ["a", 1], {"a": "b"}, ["a"] * 2049])
def test_what_is_no_list_of_texts_fails_the_step_and_is_named(texts: Any) -> None:
    (cause,) = begun(chain(embed(), inputs={"texts": {}}), texts=texts).failed
    assert (cause.step, cause.code) == ("vectors", "template_failed")
    assert cause.message.startswith("input must")


@pytest.mark.parametrize(
    ("call", "pointer", "code"),
    [
        ({"model": None}, "/steps/0/embed/model", "invalid_type"),
        ({"input": "{{ inputs.nothing }}"}, "/steps/0/embed/input", "unknown_input"),
        ({"dimensions": 0}, "/steps/0/embed/dimensions", "out_of_range"),
        ({"dimensions": "x{{ inputs.texts }}"}, "/steps/0/embed/dimensions", None),
        ({"prompt": "hi"}, "/steps/0/embed/prompt", "unknown_field"),
        ({"encoding": "hex"}, "/steps/0/embed/encoding", "invalid_value"),
    ],
)
def test_a_wrong_call_is_found_before_anything_runs(
    call: dict[str, Any], pointer: str, code: str | None
) -> None:
    finding = only_finding(written(embed(**call), inputs={"texts": {}}))
    assert (finding.pointer, finding.code) == (pointer, code or "invalid_value")


NUMBERS = [
    ("seed", 7, -1),
    ("seed", 2**53, 1.5),
    ("max_tokens", 20, 0),
    ("temperature", 0.5, 3),
    ("top_p", 1, "1"),
    ("frequency_penalty", -2, True),
    ("presence_penalty", 2, 2.5),
]


@pytest.mark.parametrize(("name", "good", "bad"), NUMBERS)
def test_a_number_can_be_filled_in_and_is_held_against_its_bounds_then(
    name: str, good: float, bad: Any
) -> None:
    step = llm("draft")
    step["llm"][name] = f"{{{{ inputs.{name} }}}}"
    some = chain(step, inputs={name: {}})
    (ready,) = begun(some, **{name: good}).ready
    assert ready.request[name] == good
    (cause,) = begun(some, **{name: bad}).failed
    assert cause.code == "template_failed"
    assert cause.message.startswith(f"{name} must be ")


def test_a_default_for_all_steps_can_be_filled_in_too() -> None:
    defaults = {"seed": "{{ inputs.seed | default(3) }}"}
    some = chain(llm("draft"), inputs={"seed": {"default": None}}, defaults=defaults)
    assert begun(some, seed=None).ready[0].request["seed"] == 3
    wrong = {"seed": "{{ inputs.sed }}"}
    finding = only_finding(written(llm("draft"), inputs={"seed": {}}, defaults=wrong))
    assert (finding.pointer, finding.code) == ("/defaults/seed", "unknown_input")


def test_a_chain_tells_apart_a_number_that_is_written_and_one_that_is_filled_in() -> None:
    written_one, filled = llm("draft"), llm("draft")
    written_one["llm"]["seed"] = 7
    filled["llm"]["seed"] = "{{ inputs.seed }}"
    assert canonical(chain(written_one))["steps"][0]["llm"]["seed"] == 7
    kept = canonical(chain(filled, inputs={"seed": {}}))["steps"][0]["llm"]["seed"]
    assert kept == "{{ inputs.seed }}"
