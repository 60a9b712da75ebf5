"""Maps, branches, loops and chains in chains, run to their end on a real ledger."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest

from chains import load_chain
from llmgine_workers.engine import upkeep
from llmgine_workers.engine.cancel import cancel
from llmgine_workers.engine.replay import replay
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.submit import JobRequest, submit
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import release, views
from tests.engine.line import Line, chain, llm
from tests.engine.stand_ins import answer, failing
from tests.ledger.rows import pass_time

pytestmark = pytest.mark.integration


def each(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"name": "each", "map": {"over": "inputs.list", "steps": list(steps), **spec}}


async def begin(line: Line, what: dict[str, Any], **inputs: Any) -> UUID:
    declared: dict[str, Any] = {name: {} for name in inputs}
    request = JobRequest(chain={**what, "inputs": declared}, inputs=inputs)
    return (await submit(line.rt, "acme", request)).job


async def output(line: Line, job: UUID) -> Any:
    row = await line.place.job_row(job)
    assert row["state"] == "succeeded", row["failure"]
    return orjson.loads(await line.output(job) or "null")


async def test_a_map_runs_every_item_as_a_step_of_its_own(line: Line) -> None:
    rt = await line.worker()
    job = await begin(line, chain(each(llm("note", "{{ item }}"))), list=["x", "y"])
    assert await line.queued(job) == ["each.0.note", "each.1.note"]
    line.provider.will(answer("first"), answer("second"))
    await line.run_to_end(rt, job)
    assert await output(line, job) == ["first", "second"]
    shown = await views.job(line.ledger, "acme", job)
    assert shown is not None
    assert shown["progress"]["total"] == 2


async def test_concurrency_bounds_how_many_items_are_in_the_ledger(line: Line) -> None:
    rt = await line.worker()
    some = chain(each(llm("note"), concurrency=1))
    job = await begin(line, some, list=[1, 2, 3])
    assert await line.queued(job) == ["each.0.note"]
    await run_step(rt, job, "each.0.note")
    assert await line.queued(job) == ["each.1.note"]
    await line.run_to_end(rt, job)
    assert len(line.provider.calls) == 3


async def test_a_failed_item_is_collected_and_writes_no_letter(line: Line) -> None:
    rt = await line.worker()
    job = await begin(line, chain(each(llm("note"), on_error="collect")), list=[1, 2])
    line.provider.will(failing("provider_rejected", "no such thing"), answer("good"))
    await line.run_to_end(rt, job)
    first, second = await output(line, job)
    assert (first["error"]["code"], first["error"]["step"], second) == (
        "provider_rejected", "each.0.note", "good",
    )  # fmt: skip
    assert await line.place.letters(job) == []
    assert await line.states(job) == {"each.0.note": "failed", "each.1.note": "succeeded"}


async def test_a_replay_repeats_the_item_that_failed_and_no_other(line: Line) -> None:
    rt = await line.worker()
    some = chain(each(llm("note"), on_error="fail", concurrency=1), llm("end"))
    job = await begin(line, some, list=[1, 2])
    line.provider.will(answer("one"), failing("provider_rejected"))
    await line.run_to_end(rt, job)
    (letter,) = await line.place.letters(job)
    assert letter["step"] == "each.1.note"

    (replayed,) = await replay(line.rt, [letter["id"]], "ann")
    assert replayed.refused is None
    assert await line.queued(job) == ["each.1.note"]
    await line.run_to_end(rt, job)
    assert (await output(line, job), len(line.provider.calls)) == ("fine", 4)


async def test_a_replay_leaves_alone_what_the_chain_had_got_over(line: Line) -> None:
    rt = await line.worker()
    some = chain(each(llm("note"), on_error="skip"), llm("end"))
    job = await begin(line, some, list=[1])
    line.provider.will(failing("provider_rejected"), failing("provider_rejected"))
    await line.run_to_end(rt, job)
    (letter,) = await line.place.letters(job)
    await replay(line.rt, [letter["id"]], "ann")
    assert await line.queued(job) == ["end"]


async def test_what_stands_beside_a_failure_is_passed_over_unless_it_runs(
    line: Line,
) -> None:
    rt = await line.worker()
    lists = {"a": [llm("bad")], "b": [llm("beside")]}
    sides = {"name": "sides", "parallel": lists, "fallback": "none of them"}
    job = await begin(line, chain(sides), list=[])
    line.provider.will(failing("provider_rejected"))
    await run_step(rt, job, "sides.a.bad")
    assert await line.states(job) == {
        "sides.a.bad": "failed",
        "sides.b.beside": "skipped",
    }
    assert await output(line, job) == "none of them"
    assert len(line.provider.calls) == 1


async def test_a_branch_runs_one_of_its_cases(line: Line) -> None:
    rt = await line.worker()
    cases = [
        {"if": 'inputs.kind == "bug"', "steps": [llm("mend")]},
        {"steps": [llm("thank")]},
    ]
    job = await begin(line, chain({"name": "route", "branch": cases}), kind="praise")
    assert await line.queued(job) == ["route.1.thank"]
    await line.run_to_end(rt, job)
    assert await output(line, job) == "fine"


def refining(**spec: Any) -> dict[str, Any]:
    loop = {
        "until": "steps.write.text == 'good'",
        "max_iterations": 5,
        "steps": [llm("write", "Before: {{ last.write.text | default('-') }}")],
        **spec,
    }
    return chain({"name": "refine", "loop": loop})


async def test_a_loop_takes_turns_until_its_condition_holds(line: Line) -> None:
    rt = await line.worker()
    job = await begin(line, refining(), n=1)
    line.provider.will(answer("bad"), answer("better"), answer("good"))
    await line.run_to_end(rt, job)
    assert await output(line, job) == "good"
    prompts = [call.request.messages[0].content for call in line.provider.calls]
    assert prompts == ["Before: -", "Before: bad", "Before: better"]


async def test_a_loop_stops_when_its_turns_have_cost_too_much(line: Line) -> None:
    """Each call costs 100 + 2 * 20 = 140 micro-dollars."""
    rt = await line.worker()
    job = await begin(line, refining(max_cost_usd=0.0002), n=1)
    await line.run_to_end(rt, job)
    row = await line.place.job_row(job)
    assert (row["state"], row["failure"]["code"]) == ("failed", "loop_limit")
    assert row["failure"]["message"] == "refine: $0.000280 of $0.0002 are spent"
    assert len(line.provider.calls) == 2


async def test_a_chain_used_by_name_is_pinned_when_its_job_begins(line: Line) -> None:
    rt = await line.worker()
    inner = chain(llm("say", "old {{ inputs.x }}"), inputs={"x": {}})
    await line.rt.chains.push(load_chain(inner))
    use = {"use": inner["name"], "inputs": {"x": "{{ inputs.x }}"}}
    job = await begin(line, chain({"name": "inner", "chain": use}), x="here")
    await line.rt.chains.push(load_chain({**inner, "steps": [llm("other")]}))
    assert await line.queued(job) == ["inner.say"]
    await line.run_to_end(rt, job)
    assert line.provider.calls[0].request.messages[0].content == "old here"


async def test_chains_that_do_not_exist_or_use_each_other_are_refused(line: Line) -> None:
    use = {"name": "inner", "chain": {"use": "nowhere"}}
    with pytest.raises(Refusal, match="no chain 'nowhere' in the registry") as caught:
        await begin(line, chain(use), n=1)
    assert caught.value.code == "unknown_chain"
    circle = chain({"name": "again", "chain": {"use": "circle"}}) | {"name": "circle"}
    await line.rt.chains.push(load_chain(circle))
    with pytest.raises(Refusal, match="at most 8 lists of steps inside each other"):
        await begin(line, circle, n=1)


async def test_a_wait_holds_no_worker_and_goes_on_when_its_time_has_come(
    line: Line,
) -> None:
    rt = await line.worker()
    pause = {"name": "pause", "wait": {"for": "5m"}}
    job = await begin(line, chain(llm("a"), pause, llm("b", "after")), n=1)
    await run_step(rt, job, "a")
    shown = await views.job(line.ledger, "acme", job)
    assert shown is not None
    assert (shown["state"], shown["waiting"]["reason"]) == ("waiting", "timer")
    await upkeep.end_waits(line.rt)
    assert await line.states(job) == {"a": "succeeded", "pause": "waiting"}
    await pass_time(line.ledger, 301, [job])
    await release.wake(line.ledger)
    assert await line.queued(job) == []
    await upkeep.end_waits(line.rt)
    assert await line.queued(job) == ["b"]
    await line.run_to_end(rt, job)
    assert await output(line, job) == "fine"


async def test_a_cancelled_job_waits_no_longer(line: Line) -> None:
    pause = {"name": "pause", "wait": {"for": "10m"}}
    job = await begin(line, chain(pause), n=1)
    await cancel(line.rt, "acme", job)
    assert await line.states(job) == {"pause": "cancelled"}
    assert (await line.place.job_row(job))["state"] == "cancelled"


async def test_a_job_with_nothing_to_do_has_ended_when_it_is_answered(line: Line) -> None:
    job = await begin(line, chain(llm("a", when="inputs.n > 1"), output="none"), n=1)
    assert await output(line, job) == "none"
    assert await line.states(job) == {"a": "skipped"}
    (ended,) = line.ear.heard(facts.JobFinished)
    assert (ended.job, ended.state, ended.output) == (job, "succeeded", "none")
