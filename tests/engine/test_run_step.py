"""One hint, from the queue to its named outcome, as one pipe of gates."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine.outcome import Dead, Done, Retry, Skip, Wait
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.events import facts
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.llm import Usage
from llmgine_workers.prices import Prices
from tests.engine.line import Line, chain, key, llm, open_line, parallel, until
from tests.engine.stand_ins import answer, failing

pytestmark = pytest.mark.integration


async def test_an_answer_is_committed_with_its_bill(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", "Write.")))

    assert await run_step(rt, job, "draft") == Done()

    assert await line.output(job, "draft") == (
        '{"output":"fine","text":"fine","model":"openai/test-model"}'
    )
    assert await line.output(job) == '"fine"'
    (attempt,) = await line.place.attempts(key(job))
    assert (attempt["state"], attempt["status"]) == ("succeeded", 200)
    assert attempt["request_id"] == "req_1"
    assert (attempt["input_tokens"], attempt["output_tokens"]) == (100, 20)
    assert attempt["cost"] == 140
    assert (await line.place.job_row(job))["state"] == "succeeded"
    (ended,) = line.ear.heard(facts.JobFinished)
    assert (ended.state, ended.output, ended.cost_usd) == ("succeeded", "fine", 0.00014)


async def test_a_call_carries_what_tells_it_from_others(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", "Write.", max_tokens=9, timeout="30s")))
    await run_step(rt, job, "draft")
    (call,) = line.provider.calls
    assert call.headers == {
        "x-llmgine-job": str(job),
        "x-llmgine-step": "draft",
        "x-llmgine-attempt": "1",
        "x-llmgine-fence": "1",
    }
    assert call.request.model == "test-model"
    assert [message.content for message in call.request.messages] == ["Write."]
    assert call.request.max_tokens == 9
    assert 25 < call.timeout_s <= 30


async def test_a_second_hint_finds_nothing_to_do(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    assert await run_step(rt, job, "draft") == Done()
    assert isinstance(await run_step(rt, job, "draft"), Skip)
    assert isinstance(await run_step(rt, clock.uuid7(), "draft"), Skip)
    assert isinstance(await run_step(rt, job, "missing"), Skip)
    assert len(line.provider.calls) == 1


async def test_many_hints_at_once_make_one_call(line: Line) -> None:
    workers = [await line.worker() for _ in range(3)]
    job = await line.submit(chain(llm("draft")))
    outcomes = await asyncio.gather(
        *(run_step(rt, job, "draft") for rt in workers for _ in range(5))
    )
    assert [o for o in outcomes if not isinstance(o, Skip)] == [Done()]
    assert len(line.provider.calls) == 1


async def test_a_hint_in_the_wrong_pool_is_left_alone(line: Line) -> None:
    rt = await line.worker("anthropic")
    job = await line.submit(chain(llm("draft")))
    assert isinstance(await run_step(rt, job, "draft"), Skip)
    assert await line.states(job) == {"draft": "queued"}


async def test_no_more_calls_are_open_than_there_are_slots(line: Line) -> None:
    rt = await line.worker(slots=2)
    job = await line.submit(chain(parallel("all", *(llm(f"s{n}") for n in range(5)))))
    open_now: list[int] = []

    async def watched() -> object:
        open_now.append(len(line.provider.calls) - line.provider.finished)
        await asyncio.sleep(0)
        return answer()

    line.provider.default = watched  # type: ignore[assignment]
    await asyncio.gather(*(run_step(rt, job, f"all.s{n}.s{n}") for n in range(5)))
    assert len(open_now) == 5
    assert max(open_now) <= 2


async def test_what_a_limit_refuses_waits_without_an_attempt(
    migrated: Ledger, redis_url: str, prices: Prices
) -> None:
    limits = [{"match": "openai/*", "requests": "1/1m"}]
    async with open_line(migrated, redis_url, prices, limits=limits) as line:
        rt = await line.worker()
        job = await line.submit(chain(parallel("all", llm("a"), llm("b"))))
        assert await run_step(rt, job, "all.a.a") == Done()
        outcome = await run_step(rt, job, "all.b.b")
        assert isinstance(outcome, Wait)
        assert outcome.reason == "limit"
        row = await line.place.step_row(key(job, "all.b.b"))
        assert (row["state"], row["reason"], row["tries"]) == ("waiting", "limit", 0)
        assert row["wake_at"] > row["waiting_since"]
        assert await line.place.attempts(key(job, "all.b.b")) == []
        assert len(line.provider.calls) == 1
        (waiting,) = line.ear.heard(facts.StepWaiting)
        assert waiting.waiting["reason"] == "limit"


async def test_a_claim_that_misses_gives_back_what_it_had_reserved(
    migrated: Ledger, redis_url: str, prices: Prices
) -> None:
    limits = [{"match": "openai/*", "requests": "2/1m"}]
    async with open_line(migrated, redis_url, prices, limits=limits) as line:
        living, dead = await line.worker(), await line.worker()
        await line.place.die(dead.worker)
        job = await line.submit(chain(parallel("all", llm("a"), llm("b"))))
        for _ in range(5):
            assert isinstance(await run_step(dead, job, "all.a.a"), Skip)
        assert await run_step(living, job, "all.a.a") == Done()
        assert await run_step(living, job, "all.b.b") == Done()


async def test_a_failure_that_passes_is_tried_again_later(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    line.provider.will(failing("stream_cut"))

    outcome = await run_step(rt, job, "draft")

    assert isinstance(outcome, Retry)
    row = await line.place.step_row(key(job))
    assert (row["state"], row["reason"], row["tries"]) == ("waiting", "retry", 1)
    (attempt,) = await line.place.attempts(key(job))
    assert (attempt["state"], attempt["failure"]["code"]) == ("failed", "stream_cut")
    assert attempt["cost"] > 0, "what was cut off in the middle is estimated"
    (restarted,) = line.ear.heard(facts.StepRestarted)
    assert restarted.attempt == 1
    await line.run_to_end(rt, job)
    assert await line.output(job) == '"fine"'
    assert [a["state"] for a in await line.place.attempts(key(job))] == [
        "failed",
        "succeeded",
    ]


async def test_a_provider_that_asks_for_a_pause_spends_no_try(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(parallel("all", llm("a"), llm("b"))))
    line.provider.will(failing("provider_rate_limited", retry_after_s=7.0))

    assert isinstance(await run_step(rt, job, "all.a.a"), Retry)

    row = await line.place.step_row(key(job, "all.a.a"))
    assert (row["state"], row["reason"], row["tries"]) == ("waiting", "provider_pause", 0)
    outcome = await run_step(rt, job, "all.b.b")
    assert isinstance(outcome, Wait)
    assert outcome.reason == "provider_pause"
    assert len(line.provider.calls) == 1


async def test_a_permanent_failure_ends_the_job_with_a_letter(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    line.provider.will(failing("provider_rejected", "no such model"))

    outcome = await run_step(rt, job, "draft")

    assert outcome == Dead("provider_rejected", "no such model")
    assert await line.states(job) == {"draft": "failed"}
    assert (await line.place.job_row(job))["state"] == "failed"
    (letter,) = await line.place.letters(job)
    assert letter["error"] == {
        "code": "provider_rejected", "message": "no such model", "step": "draft",
        "attempts": 1, "exhausted": False, "model": "openai/test-model",
        "status": None, "request_id": None,
    }  # fmt: skip
    assert (letter["step"], letter["pool"]) == ("draft", "openai")
    assert letter["task_id"] == clock.task_id(job, "draft", 0)
    (ended,) = line.ear.heard(facts.JobFinished)
    assert (ended.state, ended.dead_letter) == ("failed", letter["id"])
    (recorded,) = line.ear.heard(facts.LetterRecorded)
    assert recorded.code == "provider_rejected"


async def test_tries_come_to_an_end(line: Line) -> None:
    rt = await line.worker()
    line.provider.default = failing("provider_timeout")
    job = await line.submit(chain(llm("draft")), max_attempts=3)
    outcomes = await line.run_to_end(rt, job)
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry, Dead]
    (letter,) = await line.place.letters(job)
    assert letter["error"]["exhausted"]
    assert letter["error"]["attempts"] == 3


async def test_a_retry_in_place_is_an_attempt_of_its_own(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    unavailable = failing(
        "provider_unavailable", before_first_byte=True, retry_after_s=0.0
    )
    line.provider.will(unavailable)

    assert await run_step(rt, job, "draft") == Done()

    first, second = await line.place.attempts(key(job))
    assert (first["state"], first["failure"]["code"], first["cost"]) == (
        "failed",
        "provider_unavailable",
        0,
    )
    assert (second["state"], second["n"], second["fence"]) == ("succeeded", 2, 1)
    assert second["id"] != first["id"]
    assert [c.headers["x-llmgine-attempt"] for c in line.provider.calls] == ["1", "2"]


async def test_a_retry_in_place_needs_room_of_its_own(
    migrated: Ledger, redis_url: str, prices: Prices
) -> None:
    limits = [{"match": "openai/*", "requests": "1/1m"}]
    async with open_line(migrated, redis_url, prices, limits=limits) as line:
        rt = await line.worker()
        job = await line.submit(chain(llm("draft")))
        line.provider.will(
            failing("provider_unavailable", before_first_byte=True, retry_after_s=0.0)
        )
        assert isinstance(await run_step(rt, job, "draft"), Retry)
        assert len(line.provider.calls) == 1
        row = await line.place.step_row(key(job))
        assert (row["state"], row["reason"]) == ("waiting", "limit")
        (attempt,) = await line.place.attempts(key(job))
        assert attempt["state"] == "failed"
        assert attempt["failure"]["code"] == "provider_unavailable"


async def test_retries_in_place_count_as_tries(line: Line) -> None:
    rt = await line.worker()
    line.provider.default = failing(
        "provider_unavailable", before_first_byte=True, retry_after_s=0.0
    )
    job = await line.submit(chain(llm("draft")), max_attempts=4)
    outcomes = await line.run_to_end(rt, job)
    assert len(line.provider.calls) == 4
    assert isinstance(outcomes[-1], Dead)


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}


async def test_an_answer_that_does_not_fit_is_paid_and_tried_again(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", schema=SCHEMA)))
    line.provider.will(answer("not JSON"), answer('{"n": "one"}'), answer('{"n": 1}'))
    outcomes = await line.run_to_end(rt, job)
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry, Done]
    bad, wrong, good = await line.place.attempts(key(job))
    assert bad["failure"]["code"] == wrong["failure"]["code"] == "output_invalid"
    assert [a["cost"] for a in (bad, wrong, good)] == [140, 140, 140]
    assert await line.output(job) == '{"n":1}'


async def test_an_answer_too_large_to_keep_is_billed_and_ends_the_job(
    line: Line,
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    line.provider.will(answer("x" * (4 * 1024**2)))
    outcome = await run_step(rt, job, "draft")
    assert isinstance(outcome, Dead)
    assert outcome.code == "too_large"
    (attempt,) = await line.place.attempts(key(job))
    assert (attempt["state"], attempt["cost"]) == ("failed", 140)
    assert await line.output(job, "draft") is None
    assert len(line.provider.calls) == 1


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("a\ud800b", "a?b"),
        ("\udfff\0", "?\N{REPLACEMENT CHARACTER}"),
    ],
    ids=["NUL", "lone surrogate", "both"],
)
async def test_what_no_database_takes_is_cleaned_not_lost(
    line: Line, text: str, stored: str
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final", "{{ steps.draft.output }}")))
    line.provider.will(answer(text))
    assert await run_step(rt, job, "draft") == Done()
    assert await run_step(rt, job, "final") == Done()
    assert [m.content for m in line.provider.calls[1].request.messages] == [stored]
    assert len(line.provider.calls) == 2


async def test_odd_words_of_a_service_do_not_keep_its_failure_from_being_stored(
    line: Line,
) -> None:
    rt = await line.worker()
    line.provider.default = failing("stream_cut", "nul \0, surrogate \ud800")
    job = await line.submit(chain(llm("draft")), max_attempts=2)
    outcomes = await line.run_to_end(rt, job)
    assert [type(outcome) for outcome in outcomes] == [Retry, Dead]
    (letter,) = await line.place.letters(job)
    assert letter["error"]["code"] == "stream_cut"


async def test_a_bug_of_ours_ends_in_bounded_tries(line: Line) -> None:
    rt = await line.worker()
    line.provider.default = KeyError("a bug")
    job = await line.submit(chain(llm("draft")), max_attempts=3)
    outcomes = await line.run_to_end(rt, job)
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry, Dead]
    assert len(line.provider.calls) == 3
    (letter,) = await line.place.letters(job)
    assert letter["error"]["message"] == "internal error: KeyError"
    assert [a["state"] for a in await line.place.attempts(key(job))] == ["failed"] * 3


async def test_a_tool_is_a_step_like_any_other(line: Line) -> None:
    rt = await line.worker("tools")
    job = await line.submit_tool("shout", text="quietly")
    (path,) = await line.queued(job)
    assert await run_step(rt, job, path) == Done()
    assert await line.output(job) == '"QUIETLY"'
    assert (await line.place.attempts(key(job, path)))[0]["cost"] == 0


async def test_a_tool_that_fails_is_dead_whatever_it_says(line: Line) -> None:
    rt = await line.worker("tools")
    job = await line.submit_tool("break_oddly")
    (path,) = await line.queued(job)
    outcome = await run_step(rt, job, path)
    assert isinstance(outcome, Dead)
    assert outcome.code == "tool_failed"
    assert len(await line.place.letters(job)) == 1


async def test_a_tool_may_ask_for_another_try(line: Line) -> None:
    rt = await line.worker("tools")
    job = await line.submit_tool("later")
    (path,) = await line.queued(job)
    assert isinstance(await run_step(rt, job, path), Retry)
    assert (await line.place.step_row(key(job, path)))["tries"] == 1


async def test_a_call_the_budget_has_no_room_for_is_never_made(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", max_tokens=1000)), max_cost_usd=0.0001)

    outcome = await run_step(rt, job, "draft")

    assert isinstance(outcome, Dead)
    assert outcome.code == "budget_exhausted"
    assert line.provider.calls == []
    assert await line.place.attempts(key(job)) == []
    assert await line.states(job) == {"draft": "failed"}
    (letter,) = await line.place.letters(job)
    assert (letter["step"], letter["pool"]) == ("draft", "openai")


async def test_a_sibling_that_is_calling_may_leave_room_in_the_budget(
    line: Line,
) -> None:
    rt = await line.worker()
    budget = 0.0025  # one bound of 1,000 tokens of output, not two
    steps = (llm("a", max_tokens=1000), llm("b", max_tokens=1000))
    job = await line.submit(chain(parallel("all", *steps)), max_cost_usd=budget)
    line.provider.hold()
    first = asyncio.create_task(run_step(rt, job, "all.a.a"))
    await until(lambda: line.provider.calls, "a call is open")
    second = await run_step(rt, job, "all.b.b")
    assert isinstance(second, Wait)
    assert second.reason == "budget"
    line.provider.let_go()
    assert await first == Done()
    await line.run_to_end(rt, job)
    assert (await line.place.job_row(job))["state"] == "succeeded"


@pytest.mark.parametrize("how", ["rejected", "no budget"])
async def test_a_fallback_stands_in_for_a_failed_step(line: Line, how: str) -> None:
    rt = await line.worker()
    draft = llm("draft", max_tokens=1000, fallback="by hand")
    final = llm("final", "Mend: {{ steps.draft.output }}", max_tokens=1)
    if how == "rejected":
        line.provider.will(failing("provider_rejected"))
    cost = 0.0005 if how == "no budget" else None
    job = await line.submit(chain(draft, final), max_cost_usd=cost)
    await line.run_to_end(rt, job)
    assert await line.states(job) == {"draft": "failed", "final": "succeeded"}
    last = line.provider.calls[-1].request
    assert [message.content for message in last.messages] == ["Mend: by hand"]
    assert (await line.place.job_row(job))["state"] == "succeeded"
    assert await line.place.letters(job) == []


async def test_a_step_whose_job_ended_meanwhile_is_not_called(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    await line.place.end(job, "cancelled", None)
    assert isinstance(await run_step(rt, job, "draft"), Skip)
    assert line.provider.calls == []


async def test_a_steps_time_out_bounds_all_calls_of_its_claim(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", timeout="40s")), timeout_s=20.0)
    await run_step(rt, job, "draft")
    assert line.provider.calls[0].timeout_s <= 20


async def test_two_suspects_never_run_in_one_process_at_once(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(parallel("all", llm("a"), llm("b"), llm("c"))))
    await line.place.rows(
        "update steps set crashes = 2 where job_id = $1 and path <> 'all.c.c'", job
    )
    line.provider.hold()
    running = [
        asyncio.create_task(run_step(rt, job, f"all.{n}.{n}")) for n in ("a", "b", "c")
    ]
    await until(lambda: len(line.provider.calls) == 2, "two calls are open")
    called = {call.step[1] for call in line.provider.calls}
    assert "all.c.c" in called
    assert len(called) == 2
    line.provider.let_go()
    assert await asyncio.gather(*running) == [Done()] * 3


async def test_usage_of_many_calls_adds_up_in_the_last_fact(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    line.provider.will(failing("stream_cut"))
    await line.run_to_end(rt, job)
    (ended,) = line.ear.heard(facts.JobFinished)
    assert isinstance(job, UUID)
    assert ended.usage.calls == 3
    assert ended.usage.output_tokens == 40 + 0
    assert isinstance(ended.usage, Usage)
