"""What `map`, `branch`, `loop`, `chain` and `when` make of the steps inside them."""

from __future__ import annotations

import time
from typing import Any

from chains import Chain, Plan, StepResult, plan, steps_of
from chains.steps import counts_money, fixed_count
from tests.chains.writing import JOB, chain, llm, parallel, returned, said, tool

FAILED = StepResult("failed", error={"code": "tool_failed", "message": "no"})


def next_up(of: Chain, results: dict[str, StepResult] | None = None, **more: Any) -> Plan:
    return plan(of, more.pop("inputs", {}), results or {}, JOB, **more)


def paths(planned: Plan) -> list[str]:
    return [step.path for step in planned.ready]


def each(name: str = "each", **spec: Any) -> dict[str, Any]:
    spec = {"over": "inputs.list", "steps": [tool("a", {"x": "{{ item }}"})]} | spec
    return {"name": name, "map": spec}


def mapped(**spec: Any) -> Chain:
    return chain(each(**spec), inputs={"list": {}})


LIST: dict[str, Any] = {"inputs": {"list": ["x", "y", "z"]}}


def test_a_map_does_its_steps_for_each_item_and_gives_a_list_in_order() -> None:
    some = mapped()
    first = next_up(some, **LIST)
    assert paths(first) == ["each.0.a", "each.1.a", "each.2.a"]
    assert [step.request["arguments"] for step in first.ready] == [
        {"x": "x"}, {"x": "y"}, {"x": "z"},
    ]  # fmt: skip
    done = {f"each.{n}.a": returned(n * 10) for n in (2, 0, 1)}
    assert next_up(some, done, **LIST).output == [0, 10, 20]


def test_a_map_over_nothing_gives_an_empty_list_at_once() -> None:
    assert next_up(mapped(), inputs={"list": []}) == Plan(finished=True, output=[])


def test_the_steps_of_an_item_run_one_after_the_other_and_know_their_number() -> None:
    steps = [tool("a"), tool("b", {"x": "{{ index }}: {{ steps.a.output }}"})]
    some = mapped(steps=steps, output={"n": "{{ index }}", "of": "{{ item }}"})
    (b,) = next_up(
        some, {"each.1.a": returned("one")}, started=["each.0.a", "each.2.a"], **LIST
    ).ready
    assert (b.path, b.request["arguments"]) == ("each.1.b", {"x": "1: one"})
    done = {f"each.{n}.{name}": returned(1) for n in range(3) for name in "ab"}
    assert next_up(some, done, **LIST).output[2] == {"n": 2, "of": "z"}


def test_concurrency_says_how_many_items_are_open_at_once() -> None:
    some = mapped(concurrency=2)
    assert paths(next_up(some, **LIST)) == ["each.0.a", "each.1.a"]
    begun = ["each.0.a", "each.1.a"]
    done = {"each.1.a": returned(1)}
    assert paths(next_up(some, done, started=begun, **LIST)) == ["each.2.a"]


def test_one_failed_item_fails_the_map_and_nothing_more_begins() -> None:
    planned = next_up(mapped(concurrency=1), {"each.0.a": FAILED}, **LIST)
    assert [cause.step for cause in planned.failed] == ["each.0.a"]
    assert planned.ready == ()


def test_failed_items_are_left_out_or_told_if_the_map_says_so() -> None:
    done = {"each.0.a": returned(0), "each.1.a": FAILED, "each.2.a": returned(2)}
    assert next_up(mapped(on_error="skip"), done, **LIST).output == [0, 2]
    assert next_up(mapped(on_error="collect"), done, **LIST).output == [
        0,
        {"error": {"step": "each.1.a", "code": "tool_failed", "message": "no"}},
        2,
    ]


def test_a_text_that_cannot_be_filled_in_fails_its_item_only() -> None:
    some = mapped(on_error="skip", steps=[tool("a", {"x": "{{ item.name }}"})])
    planned = next_up(some, inputs={"list": [{"name": "x"}, {}]})
    assert paths(planned) == ["each.0.a"]


def test_what_is_no_list_or_too_long_is_not_mapped() -> None:
    (cause,) = next_up(mapped(), inputs={"list": "text"}).failed
    assert (cause.step, cause.code) == ("each", "expression_failed")
    (cause,) = next_up(mapped(), inputs={"list": [0] * 1001}).failed
    assert "1001 items, at most 1000" in cause.message


def test_what_nobody_waits_for_any_more_is_named_and_waited_out() -> None:
    steps = [tool("a"), tool("b", needs=[])]
    some = mapped(on_error="skip", steps=steps)
    inputs: dict[str, Any] = {"list": [1]}
    begun = ["each.0.a", "each.0.b"]
    planned = next_up(some, {"each.0.a": FAILED}, started=begun, inputs=inputs)
    assert planned == Plan(unwanted=("each.0.b",))
    over = {"each.0.a": FAILED, "each.0.b": StepResult("skipped")}
    assert next_up(some, over, inputs=inputs).output == []


def test_a_step_with_a_fallback_may_be_of_any_kind() -> None:
    fragile = parallel("p", x=[tool("a")], y=[tool("b")]) | {"fallback": "neither"}
    some = chain(fragile, tool("c", {"x": "{{ steps.p.output }}"}))
    planned = next_up(some, {"p.x.a": FAILED}, started=["p.y.b"])
    assert planned == Plan(unwanted=("p.y.b",))
    (c,) = next_up(some, {"p.x.a": FAILED, "p.y.b": returned(1)}).ready
    assert c.request["arguments"] == {"x": "neither"}


def test_a_branch_takes_the_first_case_that_holds() -> None:
    some = chain(
        {
            "name": "route",
            "branch": [
                {"if": 'inputs.kind == "bug"', "steps": [tool("a")]},
                {"if": 'inputs.kind.startsWith("b")', "steps": [tool("a")]},
                {"steps": [], "output": "none of them: {{ inputs.kind }}"},
            ],
        },
        inputs={"kind": {}},
    )
    assert paths(next_up(some, inputs={"kind": "bug"})) == ["route.0.a"]
    assert paths(next_up(some, inputs={"kind": "bill"})) == ["route.1.a"]
    assert next_up(some, inputs={"kind": "x"}).output == "none of them: x"
    done = {"route.1.a": returned([1])}
    assert next_up(some, done, inputs={"kind": "bill"}).output == [1]


def test_a_branch_without_a_case_that_holds_is_null() -> None:
    case = {"if": "inputs.n > 1", "steps": [tool("a")]}
    some = chain({"name": "route", "branch": [case]}, inputs={"n": {}})
    assert next_up(some, inputs={"n": 1}) == Plan(finished=True)


def refine(**spec: Any) -> Chain:
    write = llm("write", "Mend: {{ last.review.output.notes | default('-') }}")
    loop = {
        "until": "steps.review.output.score >= 8",
        "max_iterations": 2,
        "steps": [write, tool("review")],
        **spec,
    }
    return chain({"name": "refine", "loop": loop})


def test_a_loop_goes_on_until_its_condition_holds_and_knows_the_turn_before() -> None:
    some = refine(output="{{ steps.write.text }}")
    assert paths(next_up(some)) == ["refine.0.write"]
    done = {
        "refine.0.write": said("bad"),
        "refine.0.review": returned({"score": 3, "notes": "shorter"}),
    }
    (write,) = next_up(some, done).ready
    assert write.path == "refine.1.write"
    assert write.request["messages"][0]["content"] == "Mend: shorter"
    done |= {"refine.1.write": said("good"), "refine.1.review": returned({"score": 8})}
    assert next_up(some, done).output == "good"


def test_a_loop_that_runs_out_of_turns_or_money_has_failed() -> None:
    low = returned({"score": 1, "notes": "no"})
    turns = {f"refine.{n}.{name}": low for n in (0, 1) for name in ("write", "review")}
    (cause,) = next_up(refine(), turns).failed
    assert (cause.step, cause.code) == ("refine", "loop_limit")
    dear = {"refine.0.write": StepResult("succeeded", "x", cost=60_000)}
    dear["refine.0.review"] = StepResult("succeeded", {"score": 1}, cost=40_000)
    (cause,) = next_up(refine(max_cost_usd=0.1), dear).failed
    assert (cause.code, cause.message) == ("loop_limit", "$0.100000 of $0.1 are spent")
    assert paths(next_up(refine(max_cost_usd=0.11), dear)) == ["refine.1.write"]


def test_a_loop_whose_condition_cannot_be_asked_has_failed() -> None:
    done = {"refine.0.write": said("x"), "refine.0.review": returned({"grade": 1})}
    (cause,) = next_up(refine(), done).failed
    assert (cause.step, cause.code) == ("refine", "expression_failed")
    assert "score" in cause.message


def test_a_chain_in_a_chain_sees_its_own_inputs_and_options_only() -> None:
    inner = {
        "name": "translate",
        "inputs": {"text": {"type": "string"}, "to": {"type": "string", "default": "en"}},
        "defaults": {"model": "smart"},
        "steps": [{"name": "a", "llm": {"prompt": "{{ inputs.to }}: {{ inputs.text }}"}}],
        "output": {"was": "{{ steps.a.text }}"},
    }
    use = {"use": inner, "inputs": {"text": "{{ steps.first.text }}"}}
    some = chain(llm("first"), {"name": "turned", "chain": use})
    (a,) = next_up(some, {"first": said("hallo")}).ready
    assert (a.path, a.models) == ("turned.a", ("smart",))
    assert a.request["messages"][0]["content"] == "en: hallo"
    done = {"first": said("hallo"), "turned.a": said("hello")}
    assert next_up(some, done).output == {"was": "hello"}


def test_inputs_that_do_not_fit_an_inner_chain_fail_its_step() -> None:
    inner = {"name": "i", "inputs": {"n": {"type": "integer"}}, "steps": [tool("a")]}
    use = {"use": inner, "inputs": {"n": "{{ inputs.n }}"}}
    some = chain({"name": "used", "chain": use}, inputs={"n": {}})
    (cause,) = next_up(some, inputs={"n": "three"}).failed
    assert cause.step == "used"
    assert "inputs/n: a whole number, got a text" in cause.message


def test_a_step_whose_condition_does_not_hold_is_passed_over_with_null() -> None:
    some = chain(
        tool("a", when="inputs.n > 1"),
        parallel("p", x=[tool("b")]) | {"when": "inputs.n > 2"},
        tool("c", {"x": "{{ steps.a.output | default('none') }}"}),
        inputs={"n": {}},
    )
    planned = next_up(some, inputs={"n": 1})
    assert [tuple(one) for one in planned.skipped] == [("a", "tool"), ("p", "parallel")]
    assert planned.ready[0].request["arguments"] == {"x": "none"}
    again = {"a": StepResult("skipped"), "p": StepResult("skipped")}
    assert next_up(some, again, inputs={"n": 1}).skipped == ()
    assert paths(next_up(some, inputs={"n": 2})) == ["a"]


def test_a_condition_that_gives_neither_true_nor_false_fails_its_step() -> None:
    some = chain(tool("a", when="inputs.n"), inputs={"n": {}})
    (cause,) = next_up(some, inputs={"n": "yes"}).failed
    assert (cause.step, cause.code) == ("a", "expression_failed")
    some = chain(tool("a", when="inputs.n", fallback="so"), inputs={"n": {}})
    assert next_up(some, inputs={"n": "yes"}).output == "so"


def test_kinds_nest_and_paths_say_how() -> None:
    inner = each("inner", over="item", steps=[tool("a", {"x": "{{ item }}{{ index }}"})])
    loop = {"until": "index == 1", "max_iterations": 3, "steps": [inner]}
    looped = {"name": "again", "loop": loop}
    case = {"if": "size(item) > 0", "steps": [looped]}
    outer = each("outer", steps=[{"name": "some", "branch": [case]}])
    some = chain(outer, inputs={"list": {}})
    planned = next_up(some, inputs={"list": [[], [7, 8]]})
    assert paths(planned) == [
        "outer.1.some.0.again.0.inner.0.a",
        "outer.1.some.0.again.0.inner.1.a",
    ]
    assert [step.request["arguments"]["x"] for step in planned.ready] == ["70", "81"]
    assert [facts.path for facts in steps_of(some)] == [
        "outer.*.some.0.again.*.inner.*.a"
    ]


def test_how_many_steps_a_job_has_is_known_only_without_maps_loops_and_branches() -> None:
    assert fixed_count(chain(tool("a", when="true"), parallel("p", x=[tool("b")]))) == 2
    assert fixed_count(mapped()) is None
    assert counts_money(refine(max_cost_usd=1.0))
    assert not counts_money(refine())


def test_a_thousand_items_are_planned_in_milliseconds() -> None:
    """2.4 ms were measured for a prototype; the bound is for a busy machine."""
    some = mapped(steps=[tool("a"), tool("b")])
    inputs: dict[str, Any] = {"inputs": {"list": list(range(1000))}}
    begun = [f"each.{n}.{name}" for n in range(1000) for name in "ab"]
    results = {f"each.{n}.a": returned(n) for n in range(1000)}
    took = []
    for _ in range(5):
        since = time.thread_time()
        assert next_up(some, results, started=begun, **inputs) == Plan()
        took.append(time.thread_time() - since)
    assert min(took) < 0.05
