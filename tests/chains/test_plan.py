"""`plan()`: what is next, whatever has happened and in whatever order."""

from __future__ import annotations

import random
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chains import (
    Chain,
    JobFacts,
    Plan,
    StepResult,
    from_canonical,
    plan,
    steps_of,
)
from tests.chains.writing import (
    JOB,
    chain,
    llm,
    parallel,
    returned,
    said,
    tool,
    written,
)


def next_up(of: Chain, results: dict[str, StepResult] | None = None, **more: Any) -> Plan:
    return plan(of, more.pop("inputs", {}), results or {}, JOB, **more)


def paths(planned: Plan) -> list[str]:
    return [step.path for step in planned.ready]


def test_steps_run_one_after_the_other() -> None:
    three = chain(llm("a"), llm("b"), llm("c"))
    assert paths(next_up(three)) == ["a"]
    assert paths(next_up(three, {"a": said("x")})) == ["b"]
    assert paths(next_up(three, {"a": said("x"), "b": said("y")})) == ["c"]


def test_needs_replaces_the_step_before() -> None:
    diamond = chain(
        llm("a"), llm("b", needs=["a"]), llm("c", needs=["a"]), llm("d", needs=["b", "c"])
    )
    assert paths(next_up(diamond)) == ["a"]
    assert paths(next_up(diamond, {"a": said("x")})) == ["b", "c"]
    assert paths(next_up(diamond, {"a": said("x"), "c": said("y")})) == ["b"]
    done = {name: said(name) for name in "abc"}
    assert paths(next_up(diamond, done)) == ["d"]


def test_a_step_that_needs_nothing_starts_at_once_and_the_next_one_waits_for_it() -> None:
    steps = chain(llm("a"), llm("b", needs=[]), llm("c"))
    assert paths(next_up(steps)) == ["a", "b"]
    assert paths(next_up(steps, {"b": said("x")}, started={"a"})) == ["c"]


def test_a_chain_is_not_finished_before_every_step_is() -> None:
    steps = chain(llm("a"), llm("b", needs=[]))
    planned = next_up(steps, {"b": said("x")}, started={"a"})
    assert planned == Plan()
    assert next_up(steps, {"a": said("x"), "b": said("y")}).finished


def test_what_has_started_is_not_planned_again_and_not_rendered_again() -> None:
    step = chain(llm("a", "{{ inputs.gone }}"), inputs={"gone": {}})
    assert next_up(step, started={"a"}) == Plan()


def test_the_output_is_the_last_steps() -> None:
    steps = chain(llm("a"), tool("b"))
    planned = next_up(steps, {"a": said("x"), "b": returned({"n": 1})})
    assert (planned.finished, planned.output) == (True, {"n": 1})
    assert planned.ready == ()


def test_a_written_output_takes_the_place_of_the_last_steps() -> None:
    steps = chain(llm("a"), llm("b"), output={"all": ["{{ steps.a.text }}", 3]})
    planned = next_up(steps, {"a": said("x"), "b": said("y")})
    assert planned.output == {"all": ["x", 3]}


def test_an_output_written_as_null_is_null() -> None:
    assert next_up(chain(llm("a"), output=None), {"a": said("x")}) == Plan(finished=True)


def test_branches_run_side_by_side_and_come_together_as_an_object() -> None:
    sides = chain(
        parallel("sides", pro=[llm("argue"), llm("check")], con=[llm("argue")]),
        llm("judge", "{{ steps.sides.output.pro }} or {{ steps.sides.output.con }}"),
    )
    assert paths(next_up(sides)) == ["sides.pro.argue", "sides.con.argue"]
    results = {"sides.con.argue": said("no"), "sides.pro.argue": said("well")}
    assert paths(next_up(sides, results)) == ["sides.pro.check"]
    results["sides.pro.check"] = said("yes")
    (judge,) = next_up(sides, results).ready
    assert judge.request["messages"][0]["content"] == "yes or no"


def test_the_output_of_a_last_parallel_step_is_the_chains() -> None:
    sides = chain(parallel("p", x=[llm("a")], y=[tool("b")]))
    planned = next_up(sides, {"p.x.a": said("x"), "p.y.b": returned([1])})
    assert planned.output == {"x": "x", "y": [1]}


def test_parallels_nest() -> None:
    nested = chain(parallel("p", x=[parallel("q", y=[llm("a")], z=[llm("a")])]))
    assert paths(next_up(nested)) == ["p.x.q.y.a", "p.x.q.z.a"]
    results = {"p.x.q.y.a": said("1"), "p.x.q.z.a": said("2")}
    assert next_up(nested, results).output == {"x": {"y": "1", "z": "2"}}


def test_the_innermost_list_that_has_a_name_owns_it() -> None:
    steps = chain(
        llm("a"),
        parallel(
            "p",
            x=[llm("a"), llm("b", "{{ steps.a.text }}")],
            y=[llm("c", "{{ steps.a.text }}")],
        ),
    )
    planned = next_up(steps, {"a": said("outer"), "p.x.a": said("inner")})
    contents = [step.request["messages"][0]["content"] for step in planned.ready]
    assert contents == ["inner", "outer"]


def test_a_request_has_system_turns_options_and_texts_filled_in() -> None:
    steps = chain(
        {
            "name": "draft",
            "llm": {
                "system": "Be {{ inputs.tone }}.",
                "messages": [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": "Hi"},
                    {"role": "system", "content": "Order {{ job.metadata.order }}"},
                    {"role": "user", "content": "{{ inputs.numbers }}"},
                ],
                "temperature": 0,
                "stop": ["{{", "}}"],
            },
            "timeout": "5s",
        },
        inputs={"tone": {}, "numbers": {}},
        defaults={
            "model": ["smart", "openai/gpt-5"],
            "timeout": "60s",
            "attempts": 2,
            "max_tokens": 9,
        },
    )
    (draft,) = next_up(steps, inputs={"tone": "kind", "numbers": [1, 2]}).ready
    assert draft.request == {
        "system": "Be kind.\n\nOrder A-17",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "[1,2]"},
        ],
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["{{", "}}"],
    }
    assert (draft.kind, draft.models, draft.timeout_s, draft.attempts) == (
        "llm", ("smart", "openai/gpt-5"), 5.0, 2,
    )  # fmt: skip


THEIRS = {
    "model": "fast", "system": "Theirs.", "seed": 7, "presence_penalty": -1.5,
    "reasoning_effort": "low",
}  # fmt: skip


def test_a_steps_own_options_win_over_the_defaults() -> None:
    step = {"name": "a", "llm": {"model": "smart", "prompt": "x", "system": "Mine."}}
    steps = chain(step, defaults=THEIRS)
    (ready,) = next_up(steps).ready
    assert ready.models == ("smart",)
    assert ready.request == {
        "system": "Mine.",
        "messages": [{"role": "user", "content": "x"}],
        "seed": 7,
        "presence_penalty": -1.5,
        "reasoning_effort": "low",
    }


def test_a_schema_goes_with_the_step() -> None:
    schema = {"type": "object", "properties": {"x": {"default": "{{ not.a.template }}"}}}
    step = {"name": "a", "llm": {"model": "m", "prompt": "x", "schema": schema}}
    assert next_up(chain(step)).ready[0].schema == schema


def test_a_tool_step_has_its_arguments_filled_in_with_their_types() -> None:
    arguments = {"n": "{{ inputs.n }}", "text": "n is {{ inputs.n }}", "deep": [{"a": 1}]}
    steps = chain(tool("a", arguments), inputs={"n": {}}, defaults={"timeout": "9s"})
    (ready,) = next_up(steps, inputs={"n": 3}).ready
    assert (ready.kind, ready.tool, ready.models) == ("tool", "look", ())
    assert ready.timeout_s is None  # the defaults are for llm steps
    assert ready.request == {
        "tool": "look",
        "arguments": {"n": 3, "text": "n is 3", "deep": [{"a": 1}]},
    }


def test_a_fallback_stands_for_the_output_of_a_failed_step() -> None:
    steps = chain(
        llm("a"),
        llm("b", fallback="{{ steps.a.text }}"),
        llm("c", "{{ steps.b.text }}{{ steps.b.output }}"),
        tool("d", fallback={"pages": []}),
    )
    results = {"a": said("x"), "b": StepResult("failed")}
    (third,) = next_up(steps, results).ready
    assert third.request["messages"][0]["content"] == "xx"
    results |= {"c": said("y"), "d": StepResult("failed")}
    assert next_up(steps, results).output == {"pages": []}


def test_a_fallback_of_null_is_a_fallback() -> None:
    steps = chain(llm("a", fallback=None), llm("b"))
    assert paths(next_up(steps, {"a": StepResult("failed")})) == ["b"]


def test_a_skipped_step_has_ended_with_null() -> None:
    steps = chain(llm("a"), llm("b", "{{ steps.a.output | default('none') }}"))
    (ready,) = next_up(steps, {"a": StepResult("skipped")}).ready
    assert ready.request["messages"][0]["content"] == "none"


def test_a_missing_value_names_the_step_by_its_path() -> None:
    step = parallel("p", x=[llm("a", "{{ steps.first.output.score }}")])
    steps = chain(tool("first"), step)
    (cause,) = next_up(steps, {"first": returned({"scores": 3})}).failed
    assert cause == (
        "p.x.a", "template_failed", "steps.first.output.score is missing or null",
    )  # fmt: skip


def test_a_name_of_the_own_list_hides_an_outer_one_even_before_it_has_ended() -> None:
    """Nothing that came through the checks does this; what did not must not vary."""
    inner = parallel("p", x=[tool("b", {"x": "{{ steps.a.output }}"}), tool("a")])
    unchecked = from_canonical(written(tool("a"), inner))
    (cause,) = next_up(unchecked, {"a": returned("outer")}).failed
    assert (cause.step, cause.message) == ("p.x.b", "steps.a.output is missing or null")


def test_a_missing_value_in_the_output_is_told_too() -> None:
    steps = chain(tool("a"), output="{{ steps.a.output.x }}")
    (cause,) = next_up(steps, {"a": returned({})}).failed
    assert (cause.step, cause.message) == (
        "output",
        "steps.a.output.x is missing or null",
    )


def test_planning_changes_nothing_it_was_given() -> None:
    inputs = {"list": [1, 2]}
    steps = chain(tool("a", {"x": "{{ inputs.list }}", "y": ["z"]}), inputs={"list": {}})
    results: dict[str, StepResult] = {}
    before = steps.model_dump()
    plan(steps, inputs, results, JobFacts("j"))
    assert (inputs, results, steps.model_dump()) == ({"list": [1, 2]}, {}, before)


def test_steps_of_lists_every_working_step_with_its_path() -> None:
    steps = chain(
        llm("a", timeout="5s"),
        parallel("p", x=[tool("b", attempts=2)], y=[llm("c", fallback=1)]),
    )
    a, b, c = steps_of(steps)
    assert (a.path, a.kind, a.models, a.timeout_s) == ("a", "llm", ("fast",), 5.0)
    assert (b.path, b.kind, b.tool, b.attempts) == ("p.x.b", "tool", "look", 2)
    assert (c.path, c.models) == ("p.y.c", ("fast",))


_NAMES = [f"s{n}" for n in range(6)]


@st.composite
def step_lists(draw: st.DrawFn, depth: int = 2) -> list[dict[str, Any]]:
    """Lists of steps with any needs, parallels inside, texts that use what is needed."""
    steps: list[dict[str, Any]] = []
    for name in _NAMES[: draw(st.integers(1, 4))]:
        above = [step["name"] for step in steps]
        if depth and draw(st.booleans()):
            branches = draw(st.lists(step_lists(depth=depth - 1), min_size=1, max_size=3))
            step = parallel(name, **{f"b{n}": inner for n, inner in enumerate(branches)})
        else:
            step = tool(name)
        if draw(st.booleans()):
            step["needs"] = (
                draw(st.lists(st.sampled_from(above), unique=True)) if above else []
            )
        needed = step.get("needs", above[-1:])
        if "tool" in step:
            step["tool"]["arguments"] = {n: f"{{{{ steps.{n}.output }}}}" for n in needed}
        steps.append(step)
    return steps


@given(step_lists(), st.randoms(use_true_random=False))
def test_every_step_is_planned_exactly_once_whatever_ends_first(
    steps: list[dict[str, Any]], chance: random.Random
) -> None:
    """Runs a chain as the ledger would, finishing steps in a random order."""
    some = chain(*steps)
    results: dict[str, StepResult] = {}
    started: list[str] = []
    planned = next_up(some)
    while not planned.finished:
        started += [step.path for step in planned.ready]
        running = [path for path in started if path not in results]
        assert running, "nothing runs and nothing is ready: stuck"
        done = chance.choice(running)
        results[done] = returned(done)
        planned = next_up(some, results, started=started)
    assert sorted(started) == sorted(step.path for step in steps_of(some))


@given(step_lists(), st.randoms(use_true_random=False), st.data())
def test_the_order_of_results_never_matters(
    steps: list[dict[str, Any]], chance: random.Random, data: st.DataObject
) -> None:
    some = chain(*steps)
    every = [step.path for step in steps_of(some)]
    ended = data.draw(st.sets(st.sampled_from(every)))
    shuffled = sorted(ended)
    chance.shuffle(shuffled)
    one = next_up(some, {path: returned(path) for path in sorted(ended)})
    other = next_up(some, {path: returned(path) for path in shuffled})
    assert one == other


@given(step_lists(), st.randoms(use_true_random=False))
def test_planning_once_for_many_results_is_the_same_as_after_each(
    steps: list[dict[str, Any]], chance: random.Random
) -> None:
    """A finish gathers: what several results make ready is found by one replay."""
    some = chain(*steps)
    results: dict[str, StepResult] = {}
    gathered = [step.path for step in next_up(some).ready]
    one_by_one = list(gathered)
    for _ in range(chance.randrange(1, 4)):
        wave = [path for path in gathered if path not in results]
        chance.shuffle(wave)
        for path in wave:
            results[path] = returned(path)
            one_by_one += paths(next_up(some, results, started=one_by_one))
        gathered += paths(next_up(some, results, started=gathered))
        assert sorted(gathered) == sorted(one_by_one)


def test_two_hundred_steps_are_planned_in_a_few_milliseconds() -> None:
    steps = chain(
        llm("s0"),
        *(llm(f"s{n}", f"{{{{ steps.s{n - 1}.text }}}}") for n in range(1, 200)),
    )
    results = {f"s{n}": said("x" * 1000) for n in range(199)}
    fastest = min(_took(steps, results) for _ in range(5))
    assert fastest < 0.02


def _took(steps: Chain, results: dict[str, StepResult]) -> float:
    started = time.perf_counter()
    assert paths(next_up(steps, results)) == ["s199"]
    return time.perf_counter() - started
