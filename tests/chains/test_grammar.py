"""What a chain may say, and what is told about one that says something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import Finding, InvalidChain, load_chain
from chains.chain import MAX_STEPS
from chains.duration import seconds
from tests.chains.writing import (
    chain,
    codes_of,
    findings_of,
    llm,
    only_finding,
    parallel,
    tool,
    written,
)


def test_a_chain_of_every_kind_that_is_built_is_accepted() -> None:
    steps = chain(
        llm("plan", timeout="90s", attempts=3, fallback="nothing"),
        tool("page", {"url": "{{ steps.plan.text }}"}),
        parallel("sides", pro=[llm("argue")], con=[llm("argue")]),
        llm("end", needs=["plan"]),
        description="All of it.",
        defaults={"model": ["smart", "openai/gpt-5"], "timeout": "60s"},
        output={"text": "{{ steps.end.text }}"},
    ).steps
    assert [step.kind for step in steps] == ["llm", "tool", "parallel", "llm"]


def test_everything_that_is_wrong_is_told_at_once_whatever_kind_of_wrong_it_is() -> None:
    definition = written(
        {"name": "Plan", "llm": {"prompt": "{{ inputs.topci }}", "max_tokns": 3}},
        {"name": "sides", "parallel": {"pro": [llm("argue", "{{ steps.gone.text }}")]}},
        {"name": "notes", "map": {"over": "inputs.urls", "steps": [tool("a")]}},
        inputs={"topic": {"type": "strin"}},
        defaults={"timeout": "soon"},
    )
    assert codes_of(definition) == {
        "/inputs/topic/type": "invalid_schema",
        "/defaults/timeout": "invalid_value",
        "/steps/0/name": "invalid_value",
        "/steps/0/llm/model": "missing_field",
        "/steps/0/llm/prompt": "unknown_input",
        "/steps/0/llm/max_tokns": "unknown_field",
        "/steps/1/parallel/pro/0/llm/prompt": "unknown_step",
        "/steps/2/map/over": "unknown_input",
    }


@pytest.mark.parametrize(("word", "value"), [("approval", "Good?"), ("event", "paid")])
def test_a_wait_that_is_not_built_yet_is_refused_by_its_name(
    word: str, value: object
) -> None:
    finding = only_finding(written({"name": "later", "wait": {word: value}}))
    assert (finding.pointer, finding.code) == (
        f"/steps/0/wait/{word}", "not_supported_yet",
    )  # fmt: skip
    assert finding.detail.startswith(f"{word} (")


def test_a_wait_is_for_one_thing_and_not_for_ever() -> None:
    assert codes_of(written({"name": "a", "wait": {}})) == {
        "/steps/0/wait": "invalid_value"
    }
    forever = written({"name": "a", "wait": {"for": "31d"}})
    assert codes_of(forever) == {"/steps/0/wait/for": "invalid_value"}


@pytest.mark.parametrize("word", ["tools", "max_turns"])
def test_function_calling_in_a_step_is_refused_by_its_name(word: str) -> None:
    step = {"name": "a", "llm": {"model": "fast", "prompt": "x", word: 1}}
    finding = only_finding(written(step))
    assert (finding.pointer, finding.code) == (
        f"/steps/0/llm/{word}",
        "not_supported_yet",
    )


@pytest.mark.parametrize("word", ["timeout", "attempts"])
def test_what_belongs_to_working_steps_is_refused_on_a_parallel_step(word: str) -> None:
    value = {"timeout": "5s", "attempts": 2}[word]
    step = parallel("sides", pro=[llm("argue")]) | {word: value}
    assert codes_of(written(step)) == {f"/steps/0/{word}": "invalid_value"}


def test_a_step_is_exactly_one_thing() -> None:
    both = llm("a") | {"tool": {"use": "look"}}
    assert (
        only_finding(written(both)).detail == "a step is one thing, this is llm and tool"
    )
    assert codes_of(written({"name": "a"})) == {"/steps/0": "missing_field"}
    assert codes_of(written({"name": "a", "llm": None})) == {"/steps/0": "missing_field"}


@pytest.mark.parametrize("name", ["", "Draft", "2nd", "a.b", "a-b", "a b", "ä", "a" * 65])
def test_a_step_name_is_safe_in_paths_and_shells(name: str) -> None:
    assert codes_of(written(llm(name))).keys() == {"/steps/0/name"}


@pytest.mark.parametrize("name", ["a" * 64, "a_1", "notes"])
def test_an_ordinary_step_name_is_accepted(name: str) -> None:
    assert chain(llm(name)).steps[0].name == name


def test_two_steps_of_one_list_cannot_share_a_name_but_two_lists_can() -> None:
    assert codes_of(written(llm("a"), llm("a"))) == {"/steps/1/name": "duplicate_name"}
    chain(llm("a"), parallel("p", x=[llm("a")], y=[llm("a")]))


def test_a_branch_is_named_like_a_step_and_has_steps() -> None:
    assert codes_of(written(parallel("p", **{"a.b": [llm("x")]}))) == {
        "/steps/0/parallel/a.b": "invalid_value"
    }
    assert codes_of(written(parallel("p", a=[]))) == {
        "/steps/0/parallel/a": "out_of_range"
    }
    assert codes_of(written(parallel("p"))) == {"/steps/0/parallel": "out_of_range"}


def test_an_llm_step_needs_a_model_of_its_own_or_by_default() -> None:
    step = {"name": "a", "llm": {"prompt": "x"}}
    assert codes_of(written(step)) == {"/steps/0/llm/model": "missing_field"}
    assert chain(step, defaults={"model": "fast"}).steps[0].kind == "llm"


def test_an_llm_step_has_a_prompt_or_messages_and_not_both() -> None:
    turns = [{"role": "user", "content": "x"}]
    for options, code in (
        ({}, "missing_field"),
        ({"prompt": "x", "messages": turns}, "invalid_value"),
    ):
        step = {"name": "a", "llm": {"model": "fast", **options}}
        assert codes_of(written(step)) == {"/steps/0/llm": code}


def test_a_conversation_has_a_turn_that_is_not_the_systems() -> None:
    turns = [{"role": "system", "content": "x"}]
    step = {"name": "a", "llm": {"model": "fast", "messages": turns}}
    assert codes_of(written(step)) == {"/steps/0/llm/messages": "invalid_value"}


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("max_tokens", [0, -1, 10**9, "10", 1.5, True]),
        ("temperature", [-0.1, 2.1, 99, "hot", True]),
        ("top_p", [0, 1.1]),
        ("seed", [-1, 1.5]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("reasoning_effort", ["some", 1]),
        ("stop", [[], [""], ["a"] * 5, 3]),
        ("model", [[], "", "a b", "/x", "openai/", ["fast"] * 11, 5]),
        ("system", [3, ["x"]]),
        ("messages", [[], [{"role": "tool", "content": "x"}], [{"role": "user"}]]),
        ("schema", [3, {"type": 5}]),
    ],
)
def test_an_option_of_an_llm_step_out_of_its_range_is_told_with_its_place(
    option: str, values: list[object]
) -> None:
    for value in values:
        llm_call = {"model": "fast", "prompt": "x"} | {option: value}
        if option == "messages":
            del llm_call["prompt"]
        found = codes_of(written({"name": "a", "llm": llm_call}))
        assert all(at.startswith(f"/steps/0/llm/{option}") for at in found), (
            value,
            found,
        )


def test_a_bound_is_told_with_its_limit() -> None:
    finding = only_finding(
        written({"name": "a", "llm": {"model": "m", "prompt": "x", "max_tokens": 0}})
    )
    assert (finding.code, finding.detail, finding.limit) == (
        "out_of_range",
        "at least 1",
        1,
    )


@pytest.mark.parametrize("attempts", [0, -1, 101, 1.5, "3", True])
def test_attempts_out_of_range_are_refused(attempts: object) -> None:
    assert codes_of(written(llm("a", attempts=attempts))).keys() == {"/steps/0/attempts"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604800)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, value: float) -> None:
    assert seconds(text) == value
    assert chain(llm("a", timeout=text)).steps[0].timeout == text


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5s\n", "1e3s", "5w", "1h30m", "٣s", "9" * 400]
)
def test_a_duration_written_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="250ms"):
        seconds(text)
    assert codes_of(written(llm("a", timeout=text))) == {
        "/steps/0/timeout": "invalid_value"
    }


@pytest.mark.parametrize("timeout", ["0s", "8d", 60, None])
def test_a_timeout_is_more_than_nothing_and_at_most_a_week(timeout: object) -> None:
    if timeout is None:
        assert chain(llm("a", timeout=None)).steps[0].timeout is None
        return
    assert codes_of(written(llm("a", timeout=timeout))).keys() == {"/steps/0/timeout"}


def test_a_misspelt_key_is_told_with_the_one_that_was_meant() -> None:
    for definition, word in (
        (written(llm("a"), ouput="x"), "output"),
        (written(llm("a", fallbakc=1)), "fallback"),
        (written(llm("a"), defaults={"modle": "fast"}), "model"),
        (written({"name": "a", "tool": {"use": "x", "argumnets": {}}}), "arguments"),
        (written({"name": "a", "llm": {"model": "m", "prmpt": "x"}}), "prompt"),
    ):
        details = [f.detail for f in findings_of(definition) if f.code == "unknown_field"]
        assert details == [f"not known here; did you mean {word}?"]


def test_needs_name_steps_above_of_the_same_list() -> None:
    chain(llm("a"), llm("b", needs=[]), llm("c", needs=["a", "b"]))
    assert codes_of(written(llm("a", needs=["b"]), llm("b"))) == {
        "/steps/0/needs/0": "step_not_before"
    }
    finding = only_finding(written(llm("draft"), llm("b", needs=["drfat"])))
    assert (finding.code, finding.detail) == (
        "unknown_step",
        "no step is named drfat; did you mean draft?",
    )
    inner = parallel("p", x=[llm("c", needs=["a"])])
    assert codes_of(written(llm("a"), inner)) == {
        "/steps/1/parallel/x/0/needs/0": "unknown_step"
    }


def test_a_chain_has_at_least_one_and_at_most_two_hundred_steps() -> None:
    assert codes_of({"name": "sample", "steps": []}) == {"/steps": "out_of_range"}
    chain(*(llm(f"s{n}") for n in range(MAX_STEPS)))
    with_container = [llm(f"s{n}") for n in range(MAX_STEPS - 1)]
    inner = parallel("p", x=[llm("one")])
    finding = only_finding(written(*with_container, inner))
    assert (finding.code, finding.limit) == ("too_many_steps", MAX_STEPS)


def test_lists_of_steps_nest_at_most_eight_deep() -> None:
    def nested(levels: int) -> dict[str, object]:
        return llm("a") if levels == 1 else parallel("p", x=[nested(levels - 1)])

    chain(nested(8))
    assert [f.code for f in findings_of(written(nested(9)))] == ["too_deep"]


def test_thousands_of_findings_are_told_as_a_hundred_and_a_count() -> None:
    findings = findings_of({"name": "sample", "steps": [{} for _ in range(5000)]})
    assert len(findings) == 101
    assert findings[-1].code == "more_findings"


@pytest.mark.parametrize("definition", [None, 3, "text", [], [{}], True])
def test_something_that_is_no_object_is_no_chain(definition: object) -> None:
    assert only_finding(definition).code == "invalid_type"


def test_an_empty_object_lacks_a_name_and_steps() -> None:
    assert codes_of({}) == {"/name": "missing_field", "/steps": "missing_field"}


_KEYS = (
    "name", "steps", "llm", "tool", "parallel", "needs", "model", "prompt", "messages",
    "schema", "use", "map", "arguments", "inputs", "output", "defaults", "default",
    "fallback", "timeout", "x",
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(_JSON)
def test_whatever_is_given_is_a_chain_or_refused_with_findings(
    definition: object,
) -> None:
    findings: tuple[Finding, ...] | None = None
    try:
        load_chain(definition)
    except InvalidChain as invalid:
        findings = invalid.findings
    assert findings is None or all(f.detail and f.code for f in findings)
    assert findings != ()
