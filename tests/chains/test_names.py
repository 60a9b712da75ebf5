"""Which names a text may use where, checked before anything runs."""

from __future__ import annotations

import pytest

from tests.chains.writing import (
    chain,
    codes_of,
    llm,
    only_finding,
    parallel,
    tool,
    written,
)


def test_a_step_sees_inputs_the_job_and_every_step_that_ends_before_it() -> None:
    chain(
        llm("a", "{{ inputs.topic }} {{ inputs.topic.deep.0 }} {{ job.id }}"),
        llm("b", "{{ steps.a.output.x.0 }} {{ steps.a.text }} {{ steps.a.model }}"),
        llm("c", "{{ steps.a.text }} {{ job.metadata.order }}"),
        inputs={"topic": {}},
    )


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("inputs.topci", "unknown_input", "did you mean topic?"),
        ("inputs", "unknown_input", "inputs.topic"),
        ("input.topic", "unknown_name", "did you mean inputs?"),
        ("steps.draf.text", "unknown_step", "did you mean draft?"),
        ("steps.draft", "unknown_name", "steps.a.output"),
        ("steps.draft.txt", "unknown_name", "did you mean text?"),
        ("steps.last.output", "step_not_before", "needs"),
        ("steps.here.output", "step_not_before", "needs"),
        ("steps.found.text", "unknown_name", "is a tool step"),
        ("steps.sides.model", "unknown_name", "is a parallel step"),
        ("steps.inner.output", "unknown_step", "no step is named inner"),
        ("item", "unknown_name", "inside a map"),
        ("index", "unknown_name", "inside a map"),
        ("last.draft.output", "unknown_name", "inside a loop"),
        ("job.tenant", "unknown_name", "job.metadata.NAME"),
        ("job.metadata", "unknown_name", "job.metadata.NAME"),
    ],
)
def test_a_path_that_can_have_no_value_is_found_before_anything_runs(
    path: str, code: str, words: str
) -> None:
    finding = only_finding(
        written(
            llm("draft"),
            tool("found"),
            parallel("sides", pro=[llm("inner")]),
            llm("here", f"{{{{ {path} }}}}"),
            llm("last"),
            inputs={"topic": {}},
        )
    )
    assert (finding.pointer, finding.code) == ("/steps/3/llm/prompt", code)
    assert words in finding.detail


def test_default_makes_a_part_that_a_step_lacks_acceptable() -> None:
    chain(tool("found"), llm("b", "{{ steps.found.text | default('-') }}"))


def test_a_step_sees_only_what_it_needs_directly_or_not() -> None:
    steps = [llm("a"), llm("b", needs=[]), llm("c", needs=["b"])]
    chain(*steps, llm("d", "{{ steps.b.text }}", needs=["c"]))
    assert codes_of(written(*steps, llm("d", "{{ steps.a.text }}", needs=["c"]))) == {
        "/steps/3/llm/prompt": "step_not_before"
    }


def test_a_branch_sees_the_lists_around_it_but_not_its_neighbours() -> None:
    chain(llm("a"), parallel("p", x=[llm("b", "{{ steps.a.text }}")]))
    beside = parallel("p", x=[llm("b")], y=[llm("c", "{{ steps.b.text }}")])
    assert codes_of(written(beside)) == {
        "/steps/0/parallel/y/0/llm/prompt": "unknown_step"
    }
    itself = parallel("p", x=[llm("b", "{{ steps.p.output }}")])
    assert codes_of(written(itself)) == {
        "/steps/0/parallel/x/0/llm/prompt": "step_not_before"
    }


def test_a_branch_does_not_see_what_its_container_does_not_need() -> None:
    inner = parallel("p", x=[llm("c", "{{ steps.a.text }}")]) | {"needs": []}
    assert codes_of(written(llm("a"), inner)) == {
        "/steps/1/parallel/x/0/llm/prompt": "step_not_before"
    }


def test_the_innermost_list_that_has_a_name_owns_it() -> None:
    later = parallel("p", x=[llm("b", "{{ steps.a.text }}"), llm("a")])
    assert codes_of(written(llm("a"), later)) == {
        "/steps/1/parallel/x/0/llm/prompt": "step_not_before"
    }


def test_every_text_of_a_chain_is_checked() -> None:
    gone = "{{ steps.gone.text }}"
    turns = [{"role": "user", "content": gone}]
    found = codes_of(
        written(
            {"name": "a", "llm": {"model": "m", "system": gone, "messages": turns}},
            tool("b", {"deep": [{"url": gone}], gone: 1}, fallback={"x": gone}),
            defaults={"system": gone},
            output=[gone],
        )
    )
    assert found == dict.fromkeys(
        [
            "/defaults/system",
            "/steps/0/llm/system",
            "/steps/0/llm/messages/0/content",
            "/steps/1/tool/arguments/deep/0/url",
            "/steps/1/fallback/x",
            "/output/0",
        ],
        "unknown_step",
    )


def test_the_default_system_text_sees_no_steps() -> None:
    found = codes_of(written(llm("a"), defaults={"system": "{{ steps.a.text }}"}))
    assert found == {"/defaults/system": "unknown_step"}


def test_the_output_sees_every_step_of_the_chain() -> None:
    chain(llm("a"), llm("b", needs=[]), output="{{ steps.a.text }}{{ steps.b.text }}")
