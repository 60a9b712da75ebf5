"""A chain's canonical form and version, and the chain behind a tool job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chains
from chains import (
    JobFacts,
    StepResult,
    canonical,
    from_canonical,
    load_chain,
    plan,
    single_tool_chain,
    steps_of,
    version_of,
)
from tests.chains.writing import chain, llm, parallel, replaced, tool, written


def test_the_package_can_be_told_from_a_users_own() -> None:
    assert chains.CHAINS_OF == "llmgine-workers"


def test_the_canonical_form_makes_the_same_chain_with_the_same_version() -> None:
    some = chain(
        llm("a", fallback=None, timeout="60s", needs=[]),
        tool("b", {"n": 1, "none": None}),
        parallel("p", x=[llm("a")]),
        inputs={"x": {"default": None}},
        output={"x": None},
    )
    stored = json.loads(json.dumps(canonical(some)))
    assert from_canonical(stored) == some
    assert load_chain(stored) == some
    assert version_of(from_canonical(stored)) == version_of(some)
    assert canonical(from_canonical(stored)) == canonical(some)


def test_the_version_is_a_hash_that_the_order_of_keys_does_not_change() -> None:
    one = written(llm("a"), inputs={"x": {}, "y": {}})
    other = dict(reversed(one.items())) | {"inputs": {"y": {}, "x": {}}}
    version = version_of(load_chain(one))
    assert version == version_of(load_chain(other))
    algorithm, _, digest = version.partition(":")
    assert algorithm == "sha256"
    assert len(digest) == 64


def test_one_model_and_a_list_of_one_are_the_same_version() -> None:
    one, other = llm("a"), llm("a")
    other["llm"]["model"] = ["fast"]
    assert version_of(chain(one)) == version_of(chain(other))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"description": "x"},
        {"output": None},
        {"inputs": {"x": {}}},
        {"defaults": {"seed": 1}},
        {"steps": [llm("a", "other")]},
        {"steps": [llm("a", fallback=None)]},
        {"steps": [llm("a"), llm("b")]},
    ],
)
def test_any_change_of_what_is_written_is_another_version(change: dict[str, Any]) -> None:
    before = written(llm("a"))
    after = replaced(before, **change)
    assert version_of(load_chain(before)) != version_of(load_chain(after))


def test_a_tool_job_is_a_chain_of_one_step_named_after_the_tool() -> None:
    behind = single_tool_chain("word_count", {"text": "hello"})
    assert behind.name == "word_count"
    (step,) = steps_of(behind)
    assert (step.path, step.kind, step.tool) == ("word_count", "tool", "word_count")
    result = {"word_count": StepResult("succeeded", {"words": 1})}
    assert plan(behind, {}, result, JobFacts("j")).output == {"words": 1}


@pytest.mark.parametrize(
    ("tool_name", "name"),
    [("fetch-page", "fetch_page"), ("FetchPage", "fetchpage"), ("_private", "private"),
     ("_9", "tool"), ("t" * 64, "t" * 64)],
)  # fmt: skip
def test_a_tool_name_that_is_no_step_name_is_made_one(tool_name: str, name: str) -> None:
    (step,) = steps_of(single_tool_chain(tool_name, {}))
    assert (step.path, step.tool) == (name, tool_name)


_TEXTS = st.text(
    st.sampled_from("{}'\" |%a\n") | st.characters(codec="utf-8"), max_size=30
)
_ARGUMENTS = st.dictionaries(
    _TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | _TEXTS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@given(_ARGUMENTS)
def test_the_arguments_of_a_tool_job_reach_the_tool_as_they_are(
    arguments: dict[str, Any],
) -> None:
    stored = json.loads(json.dumps(canonical(single_tool_chain("look", arguments))))
    (ready,) = plan(from_canonical(stored), {}, {}, JobFacts("j")).ready
    assert ready.request == {"tool": "look", "arguments": arguments}


def test_the_arguments_of_a_tool_job_may_be_larger_than_a_chain_from_outside() -> None:
    behind = single_tool_chain("look", {"text": "{{" * 50_000})
    (ready,) = plan(from_canonical(canonical(behind)), {}, {}, JobFacts("j")).ready
    assert ready.request["arguments"]["text"] == "{{" * 50_000
