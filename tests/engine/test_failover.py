"""Failover: a step with several models goes to the next when one fails it (row 9)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.engine import failover
from llmgine_workers.engine.outcome import Dead, Done, Failover, Retry, Wait
from llmgine_workers.engine.replay import replay
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.events import facts
from llmgine_workers.ledger import release
from llmgine_workers.llm import LlmAnswer
from llmgine_workers.resilience.rules import Demand
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.line import Line, chain, key, llm
from tests.engine.stand_ins import failing

pytestmark = pytest.mark.integration

FIRST, SECOND = "openai/test-model", "anthropic/test-model"


def either(**more: Any) -> dict[str, Any]:
    """A chain of one step that names two models."""
    step = {"name": "draft", "llm": {"model": [FIRST, SECOND], "prompt": "Write."}}
    return chain({**step, **more})


async def shown(line: Line, job: UUID) -> tuple[str, str, str, str]:
    """State, pool, model and the reason for the model."""
    (row,) = await line.place.rows(
        "select state, pool, model, why from steps where job_id = $1", job
    )
    return row["state"], row["pool"], row["model"], row["why"]


async def break_openai(rt: WorkerRuntime) -> None:
    """Report failures of a provider until its breaker opens."""
    for _ in range(50):
        if await rt.admission.shut("openai"):
            return
        verdict = await rt.admission.ask(Demand(FIRST, "acme"), 60)
        await rt.admission.settle(verdict, "provider_unreachable")  # type: ignore[arg-type]
    raise AssertionError("the breaker does not open")


@pytest.mark.parametrize(
    "code", ["provider_auth", "provider_quota", "context_too_long", "content_refused"]
)
async def test_what_another_model_may_do_better_goes_there(line: Line, code: str) -> None:
    rt = await line.worker()
    job = await line.submit(either())
    line.provider.will(failing(code))

    outcome = await run_step(rt, job, "draft")

    why = f"after {FIRST}: {code}"
    assert outcome == Failover("anthropic", why)
    assert await shown(line, job) == ("queued", "anthropic", SECOND, why)
    (failed_over,) = line.ear.heard(facts.StepFailedOver)
    assert (failed_over.model, failed_over.reason) == (SECOND, code)
    assert line.ear.heard(facts.StepRestarted)
    other = await line.worker("anthropic")
    assert await run_step(other, job, "draft") == Done()
    attempts = await line.place.attempts(key(job))
    assert [(a["model"], a["state"]) for a in attempts] == [
        (FIRST, "failed"),
        (SECOND, "succeeded"),
    ]


async def test_spent_attempts_go_on_with_the_next_model_and_all_its_tries(
    line: Line,
) -> None:
    rt, other = await line.worker(), await line.worker("anthropic")
    job = await line.submit(either(attempts=2))
    line.provider.default = failing("stream_cut")
    assert isinstance(await run_step(rt, job, "draft"), Retry)
    await line.wake(job)
    assert isinstance(await run_step(rt, job, "draft"), Failover)
    assert isinstance(await run_step(other, job, "draft"), Retry)
    await line.wake(job)

    outcome = await run_step(other, job, "draft")

    assert outcome == Dead("stream_cut", "it does not work")
    assert len(line.provider.calls) == 4
    assert await line.states(job) == {"draft": "failed"}


async def test_what_no_model_could_do_is_dead_at_once(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(either())
    line.provider.will(failing("provider_rejected"))
    assert isinstance(await run_step(rt, job, "draft"), Dead)


async def test_an_open_breaker_sends_its_steps_on_without_an_attempt(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(either())
    await break_openai(rt)

    outcome = await run_step(rt, job, "draft")

    assert outcome == Failover("anthropic", f"instead of {FIRST}: breaker")
    assert await line.place.attempts(key(job)) == []
    other = await line.worker("anthropic")
    assert await run_step(other, job, "draft") == Done()


async def test_a_short_pause_is_waited_for_and_a_long_one_is_not(line: Line) -> None:
    rt = await line.worker()
    first, second = await line.submit(either()), await line.submit(either())
    await rt.admission.pause("openai", 2)
    assert isinstance(await run_step(rt, first, "draft"), Wait)
    await rt.admission.pause("openai", 60)
    assert isinstance(await run_step(rt, second, "draft"), Failover)


async def test_a_call_that_failed_goes_on_elsewhere_when_a_further_one_is_refused(
    line: Line,
) -> None:
    """As a probe does that failed: its job would else wait for many of them."""
    rt, other = await line.worker(), await line.worker("anthropic")
    job = await line.submit(either())

    async def last_straw() -> LlmAnswer:
        await break_openai(rt)
        raise failing("provider_unavailable", before_first_byte=True)

    line.provider.will(last_straw)
    why = f"instead of {FIRST}: breaker"
    assert await run_step(rt, job, "draft") == Failover("anthropic", why)
    (row,) = await line.place.rows(
        "select tries, given_up, worker from steps where job_id = $1", job
    )
    assert row == {"tries": 1, "given_up": [], "worker": None}
    assert await run_step(other, job, "draft") == Done()
    attempts = await line.place.attempts(key(job))
    assert [(a["model"], a["state"]) for a in attempts] == [
        (FIRST, "failed"),
        (SECOND, "succeeded"),
    ]


async def test_nobody_moves_to_a_gate_that_is_shut_as_well(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(either())
    await break_openai(rt)
    await rt.admission.pause("anthropic", 60)
    assert isinstance(await run_step(rt, job, "draft"), Wait)
    assert (await shown(line, job))[1] == "openai"


async def test_a_model_that_was_only_shut_may_be_come_back_to(line: Line) -> None:
    rt, other = await line.worker(), await line.worker("anthropic")
    job = await line.submit(either())
    await rt.admission.pause("openai", 60)
    assert isinstance(await run_step(rt, job, "draft"), Failover)
    line.provider.will(failing("provider_auth"))

    outcome = await run_step(other, job, "draft")

    assert outcome == Failover("openai", f"after {SECOND}: provider_auth")
    line.provider.will(failing("provider_auth"))
    await line.ephemeral.command("DEL", line.ephemeral.key("pause", "openai"))
    assert isinstance(await run_step(await line.worker(), job, "draft"), Dead)


async def test_the_scheduler_empties_a_broken_pool_of_what_can_go_elsewhere(
    line: Line,
) -> None:
    rt = await line.worker()
    movable = await line.submit(either())
    bound = await line.submit(chain(llm("draft")))
    await break_openai(rt)

    await failover.empty_shut_pool(line.rt, rt.admission, "openai")

    assert await shown(line, movable) == (
        "queued", "anthropic", SECOND, f"breaker at {FIRST}",
    )  # fmt: skip
    assert (await shown(line, bound))[1] == "openai"
    moved = [fact.job for fact in line.ear.heard(facts.StepFailedOver)]
    assert movable in moved  # beside what other tests left in the shared ledger
    assert bound not in moved


async def test_the_scheduler_leaves_an_open_pool_alone(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(either())
    await failover.empty_shut_pool(line.rt, rt.admission, "openai")
    assert (await shown(line, job))[1] == "openai"


async def test_a_move_is_published_while_the_other_pool_has_credit(line: Line) -> None:
    rt, other = await line.worker(), await line.worker("anthropic")
    job = await line.submit(either())
    await release.tick(line.ledger, "anthropic", 2000, 2000)
    await line.place.rows("update pools set backlogged = false, credit = 100")
    await rt.pools.refresh()
    line.provider.will(failing("provider_quota"))
    assert isinstance(await run_step(rt, job, "draft"), Failover)
    (row,) = await line.place.rows("select released_at from steps where job_id = $1", job)
    assert row["released_at"] is not None
    assert await run_step(other, job, "draft") == Done()


async def test_a_replay_begins_with_the_first_model_again(line: Line) -> None:
    rt, other = await line.worker(), await line.worker("anthropic")
    job = await line.submit(either())
    line.provider.will(failing("provider_auth"), failing("provider_auth"))
    assert isinstance(await run_step(rt, job, "draft"), Failover)
    assert isinstance(await run_step(other, job, "draft"), Dead)
    (letter,) = await line.place.rows("select id from letters where job_id = $1", job)

    await replay(line.rt, [letter["id"]], "a test")

    assert (await shown(line, job))[:3] == ("queued", "openai", FIRST)
    assert await run_step(rt, job, "draft") == Done()
