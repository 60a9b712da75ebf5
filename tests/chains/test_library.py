"""The chains that come with the package: every one is read, filled in and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from chains import (
    Chain,
    JobFacts,
    ReadyStep,
    StepResult,
    fill_inputs,
    library_path,
    load_library,
    plan,
    schema_findings,
    steps_of,
)
from chains.steps import fixed_count

LIBRARY = load_library()
EXAMPLES: dict[str, dict[str, Any]] = {
    "summarize": {"text": "Prices rose in {{ every }} town."},
    "debate": {"question": "Should a queue keep its messages?"},
    "read_invoice": {"text": "Invoice 7, Ink Ltd, 2026-11-20, ink 12.50"},
    "shorten": {"text": "It is the case that prices rose."},
    "digest": {"text": "Prices rose. Rain fell."},
    "write_and_review": {"task": "A note to the neighbours."},
    "route_support": {"message": "The chair came broken, I want my money back."},
    "classify": {"texts": ["it rains", "it costs"], "classes": ["weather", "money"]},
    "translate_and_check": {"text": "Guten Tag.", "to": "English"},
}
OUTPUTS: dict[str, list[Any]] = {
    "size": [{"words": 6, "characters": 32, "lines": 1}],
    "pieces": [["Prices rose.", "Rain fell."]],
    "review": [{"score": 4, "notes": "shorter"}, {"score": 9, "notes": "-"}],
    "about": [{"topic": "refund", "urgent": True}],
    "one": [{"class": "weather"}, {"class": "money"}],
    "check": [{"complete": False, "missing": "the time of day"}],
}
"""What steps of that name answer, one after the other."""
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
    answers = {name: iter(outputs) for name, outputs in OUTPUTS.items()}
    order: list[str] = []
    while not (planned := plan(chain, inputs, results, JobFacts("j"))).finished:
        assert planned.ready or planned.skipped, planned
        for step in planned.ready:
            order.append(step.path)
            results[step.path] = answer(step, answers)
        results |= {one.path: StepResult("skipped") for one in planned.skipped}
    return order, planned.output


def answer(step: ReadyStep, answers: Mapping[str, Iterator[Any]]) -> StepResult:
    name = step.path.rpartition(".")[2]
    if name in answers and (step.schema or step.kind == "tool"):
        output = next(answers[name])
        assert not step.schema or schema_findings(step.schema, output) == []
        return StepResult("succeeded", output, "{}", "sim/model")
    if step.kind == "tool":
        return StepResult("succeeded", OUTPUTS["size"][0])
    if step.schema:
        return StepResult("succeeded", INVOICE, "{}", "sim/model")
    said = f"said by {step.path}"
    return StepResult("succeeded", said, said, "sim/model")


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
        assert step.tool in (None, "word_count", "split_text")


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_chain_runs_to_its_end_from_its_example(name: str) -> None:
    inputs, findings = fill_inputs(LIBRARY[name], EXAMPLES[name])
    assert findings == []
    order, output = run(LIBRARY[name], inputs)
    if fixed_count(LIBRARY[name]) is not None:
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


def run_example(name: str) -> tuple[list[str], Any]:
    inputs, findings = fill_inputs(LIBRARY[name], EXAMPLES[name])
    assert findings == []
    return run(LIBRARY[name], inputs)


def test_digest_notes_every_piece_and_puts_the_notes_together() -> None:
    order, output = run_example("digest")
    assert order == ["pieces", "notes.0.note", "notes.1.note", "digest"]
    assert output == "said by digest"


def test_write_and_review_goes_on_until_the_review_is_good() -> None:
    order, output = run_example("write_and_review")
    assert order == [f"refine.{n}.{name}" for n in (0, 1) for name in ("write", "review")]
    assert output == {"text": "said by refine.1.write", "score": 9}


def test_route_support_reads_a_claim_before_it_is_answered() -> None:
    order, output = run_example("route_support")
    assert order == ["about", "draft.0.claim", "draft.0.answer"]
    assert (output["topic"], output["draft"]) == ("refund", "said by draft.0.answer")


def test_classify_answers_for_each_text() -> None:
    _, output = run_example("classify")
    assert output == [
        {"text": "it rains", "class": "weather"},
        {"text": "it costs", "class": "money"},
    ]


def test_translate_and_check_mends_only_what_lacks_something() -> None:
    order, output = run_example("translate_and_check")
    assert (order, output) == (["translation", "check", "mended"], "said by mended")
