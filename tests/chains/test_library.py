"""The chains that come with the package: every one is read, filled in and run."""

from __future__ import annotations

from typing import Any

import pytest

from chains import (
    Chain,
    JobFacts,
    StepResult,
    fill_inputs,
    library_path,
    load_library,
    plan,
    schema_findings,
    steps_of,
)

LIBRARY = load_library()
EXAMPLES: dict[str, dict[str, Any]] = {
    "summarize": {"text": "Prices rose in {{ every }} town."},
    "debate": {"question": "Should a queue keep its messages?"},
    "read_invoice": {"text": "Invoice 7, Ink Ltd, 2026-11-20, ink 12.50"},
    "shorten": {"text": "It is the case that prices rose."},
}
INVOICE = {
    "number": "7",
    "seller": "Ink Ltd",
    "date": "2026-11-20",
    "currency": "EUR",
    "total": 12.5,
    "lines": [{"description": "ink", "amount": 12.5}],
}


def run(chain: Chain, inputs: dict[str, Any]) -> tuple[list[str], Any]:
    """Every path in the order it was planned, and the chain's output."""
    results: dict[str, StepResult] = {}
    order: list[str] = []
    while not (planned := plan(chain, inputs, results, JobFacts("j"))).finished:
        for step in planned.ready:
            order.append(step.path)
            results[step.path] = answer(step.path, step.kind, step.schema is not None)
    return order, planned.output


def answer(path: str, kind: str, has_schema: bool) -> StepResult:
    if kind == "tool":
        return StepResult("succeeded", {"words": 6, "characters": 32, "lines": 1})
    if has_schema:
        return StepResult("succeeded", INVOICE, "{}", "sim/model")
    return StepResult("succeeded", f"said by {path}", f"said by {path}", "sim/model")


def test_every_file_of_the_library_has_the_name_of_its_chain_and_an_example_here() -> (
    None
):
    assert {path.stem for path in library_path().glob("*.yaml")} == set(LIBRARY)
    assert set(LIBRARY) == set(EXAMPLES)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_chain_says_what_it_is_for_and_what_its_inputs_are(name: str) -> None:
    assert LIBRARY[name].description
    assert all("description" in schema for schema in LIBRARY[name].inputs.values())


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_chain_uses_only_the_aliases_and_tools_that_are_always_there(
    name: str,
) -> None:
    for step in steps_of(LIBRARY[name]):
        assert set(step.models) <= {"fast", "smart"}
        assert step.tool in (None, "word_count")


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_chain_runs_to_its_end_from_its_example(name: str) -> None:
    inputs, findings = fill_inputs(LIBRARY[name], EXAMPLES[name])
    assert findings == []
    order, output = run(LIBRARY[name], inputs)
    assert sorted(order) == sorted(step.path for step in steps_of(LIBRARY[name]))
    assert output


def test_summarize_takes_a_text_and_makes_two_calls() -> None:
    summarize = LIBRARY["summarize"]
    inputs, findings = fill_inputs(summarize, {"text": "Prices rose."})
    assert findings == []
    assert inputs == {"text": "Prices rose.", "sentences": 3}
    assert run(summarize, inputs) == (["outline", "summary"], "said by summary")
    _, findings = fill_inputs(summarize, {"text": "x", "sentences": 50})
    assert [(f.pointer, f.detail, f.limit) for f in findings] == [
        ("/inputs/sentences", "at most 20, got 50", 20)
    ]


def test_debate_hears_both_sides_at_once() -> None:
    ready = plan(LIBRARY["debate"], EXAMPLES["debate"], {}, JobFacts("j")).ready
    assert [step.path for step in ready] == ["sides.pro.argue", "sides.con.argue"]
    _, output = run(LIBRARY["debate"], EXAMPLES["debate"])
    assert output["pro"] == "said by sides.pro.argue"


def test_read_invoice_asks_for_data_that_its_own_schema_accepts() -> None:
    (step,) = steps_of(LIBRARY["read_invoice"])
    assert step.schema is not None
    assert schema_findings(step.schema, INVOICE) == []
    assert schema_findings(step.schema, INVOICE | {"total": "12.50"}) != []


def test_shorten_counts_before_and_after() -> None:
    inputs, _ = fill_inputs(LIBRARY["shorten"], EXAMPLES["shorten"])
    order, output = run(LIBRARY["shorten"], inputs)
    assert order == ["before", "rewrite", "after"]
    assert output["words_before"] == 6
