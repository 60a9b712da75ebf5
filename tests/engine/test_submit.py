"""Row 1: what is accepted is written whole, told once, and found again by its key."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from llmgine_workers.engine import intake
from llmgine_workers.engine.submit import JobRequest, Options, submit, submit_batch
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import jobs, overview, release, steps
from tests.engine.line import Line, chain, llm, parallel, until

pytestmark = pytest.mark.integration

KEY = ("order-17", b"one body")


def tenant() -> str:
    return f"t{uuid4().hex[:8]}"


def request(*steps: Any, **options: Any) -> JobRequest:
    return JobRequest(
        chain=chain(*(steps or (llm("draft"),))), options=Options(**options)
    )


async def refusal(line: Line, *requests: JobRequest, key: Any = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await submit_batch(line.rt, tenant(), requests, key)
    return caught.value


async def of_batch(line: Line, batch: UUID) -> list[dict[str, Any]]:
    return await line.place.rows("select * from jobs where batch = $1 order by id", batch)


async def chains_named(line: Line, name: str) -> int:
    rows = await line.place.rows("select 1 from chains where name = $1", name)
    return len(rows)


async def test_the_jobs_of_a_batch_have_ids_in_the_order_of_their_requests(
    line: Line,
) -> None:
    requests = [
        JobRequest(chain=chain(llm("draft")), metadata={"n": str(n)}) for n in range(60)
    ]
    made = await submit_batch(line.rt, tenant(), requests)
    rows = await of_batch(line, made.batch)
    assert [row["metadata"]["n"] for row in rows] == [str(n) for n in range(60)]
    (total,) = await line.place.rows("select * from batches where id = $1", made.batch)
    assert (total["total"], total["tenant"]) == (60, rows[0]["tenant"])


async def test_jobs_of_all_kinds_go_into_one_batch(line: Line) -> None:
    skipping = chain(parallel("both", llm("a"), llm("b")), llm("last"))
    made = await submit_batch(
        line.rt,
        tenant(),
        [
            JobRequest(chain=skipping, options=Options(priority="batch", timeout_s=30)),
            JobRequest(tool="shout", arguments={"text": "hello"}),
            request(llm("only"), priority="interactive", max_cost_usd=0.5, stream=False),
        ],
    )
    first, second, third = await of_batch(line, made.batch)
    assert set(await line.states(first["id"])) == {"both.a.a", "both.b.b"}
    assert (first["class"], first["timeout_s"], first["steps_total"]) == (2, 30, 3)
    assert len(await line.states(second["id"])) == 1
    assert (third["class"], third["max_cost"], third["stream"]) == (0, 500_000, False)
    lasts = (first["expires_at"] - first["created_at"]).total_seconds()
    assert lasts == 30


async def test_a_batch_is_told_job_by_job_and_published_while_there_is_credit(
    line: Line,
) -> None:
    requests = [request() for _ in range(3)]
    line.rt.pools._credit["openai"] = 2
    running = line.rt.spawn(line.rt.hints.run())
    made = await submit_batch(line.rt, tenant(), requests)
    ids = [row["id"] for row in await of_batch(line, made.batch)]
    told = [(type(fact), fact.job) for fact in line.ear.heard(facts.JobFact)]
    assert told == [
        (kind, job) for job in ids for kind in (facts.JobQueued, facts.StepQueued)
    ]
    queue = f"{line.broker.prefix}.openai"
    await until(lambda: len(line.broker.queues[queue]) == 2, "two hints")
    running.cancel()
    released = [
        (await line.place.rows("select released_at from steps where job_id = $1", job))[0]
        for job in ids
    ]
    assert [row["released_at"] is not None for row in released] == [True, True, False]


async def test_a_refused_batch_leaves_neither_jobs_nor_chains_nor_its_key(
    line: Line,
) -> None:
    good = chain(llm("draft"))
    owner = tenant()
    bad = JobRequest(chain="nothing")
    with pytest.raises(Refusal) as caught:
        await submit_batch(line.rt, owner, [JobRequest(chain=good), bad], KEY)
    assert caught.value.code == "unknown_chain"
    assert caught.value.findings == (
        {"pointer": "/jobs/1/chain", "code": "unknown_chain",
         "detail": "no chain 'nothing' in the registry"},
    )  # fmt: skip
    assert await line.place.rows("select 1 from jobs where tenant = $1", owner) == []
    assert await chains_named(line, good["name"]) == 0
    made = await submit_batch(line.rt, owner, [JobRequest(chain=good)], KEY)
    assert not made.replayed
    assert await chains_named(line, good["name"]) == 1


async def test_a_refused_job_leaves_no_chain_either(line: Line) -> None:
    bad = chain(llm("draft"), inputs={"text": {"type": "string"}})
    with pytest.raises(Refusal):
        await submit(line.rt, tenant(), JobRequest(chain=bad))
    assert await chains_named(line, bad["name"]) == 0


async def test_all_that_is_wrong_with_a_job_is_told_at_once(line: Line) -> None:
    other = {"name": "b", "llm": {"model": "opena1/gpt", "prompt": "x"}}
    tool = {"name": "c", "tool": {"use": "shoot", "arguments": {}}}
    wrong = chain(llm("a"), other, tool, inputs={"text": {"type": "string"}})
    told = await refusal(line, request(), JobRequest(chain=wrong))
    assert {(one["pointer"], one["code"]) for one in told.findings} == {
        ("/jobs/1/inputs/text", "invalid_input"),
        ("/jobs/1/chain", "unknown_provider"),
        ("/jobs/1/chain", "unknown_tool"),
    }
    assert "jobs.1.inputs.text: " in str(told)
    assert "(and 2 more)" in str(told)


async def test_a_thousand_bad_jobs_are_not_all_told(line: Line) -> None:
    told = await refusal(line, *[JobRequest(chain="nothing")] * 1000)
    assert 100 < len(told.findings) < 110


async def test_a_batch_that_templates_blow_up_is_refused(line: Line) -> None:
    large = chain(llm("draft", "{{ inputs.text }} " * 200), inputs={"text": {}})
    requests = [JobRequest(chain=large, inputs={"text": "x" * 10_000})] * 40
    told = await refusal(line, *requests)
    assert (told.code, told.findings) == ("batch_too_large", ())


async def test_a_tool_that_could_never_be_named_is_unknown(line: Line) -> None:
    for name in ("shot", "{{ inputs.text }}", "\N{SNOWMAN}", "a b", "x" * 200):
        told = await refusal(line, JobRequest(tool=name))
        assert told.findings[0]["pointer"] == "/jobs/0/tool"
        assert told.code == "unknown_tool"


async def test_inputs_too_large_to_be_stored_are_refused(line: Line) -> None:
    what = chain(llm("draft", "x"), inputs={"text": {}})
    told = await refusal(line, JobRequest(chain=what, inputs={"text": "x" * 5_000_000}))
    assert [one["pointer"] for one in told.findings] == ["/jobs/0/inputs"]


async def test_the_same_key_finds_the_first_batch(line: Line) -> None:
    owner = tenant()
    first = await submit_batch(line.rt, owner, [request()], KEY)
    again = await submit_batch(line.rt, owner, [request()], KEY)
    assert (again.batch, again.replayed) == (first.batch, True)
    with pytest.raises(Refusal) as caught:
        await submit_batch(line.rt, owner, [request()], (KEY[0], b"another body"))
    assert caught.value.code == "idempotency_mismatch"


async def test_a_key_finds_its_job_also_when_the_request_would_be_refused_by_now(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain is gone, or the queue is full: the first answer stands."""
    monkeypatch.setattr(intake, "LOOK_AGAIN_S", 0.0)
    owner, same = tenant(), request()
    first = await submit(line.rt, owner, same, KEY)
    async with line.ledger.connection() as connection:
        await connection.execute(
            "insert into tenant_load values ($1, $2)",
            owner, line.settings.gateway.max_queued_per_tenant,
        )  # fmt: skip
    again = await submit(line.rt, owner, same, KEY)
    assert (again.job, again.replayed) == (first.job, True)
    gone = await submit(line.rt, owner, JobRequest(chain="gone"), KEY)
    assert gone.job == first.job
    with pytest.raises(Refusal) as caught:
        await submit(line.rt, owner, same, ("another", b""))
    assert caught.value.code == "tenant_queue_full"
    with pytest.raises(Refusal) as caught:
        await submit(line.rt, owner, same)
    assert caught.value.code == "tenant_queue_full"


@pytest.mark.parametrize(("ended", "kept"), [(False, True), (True, False)])
async def test_a_batchs_key_is_kept_until_its_last_job_ends(
    line: Line, *, ended: bool, kept: bool
) -> None:
    owner = tenant()
    first = await submit_batch(line.rt, owner, [request(), request()], KEY)
    await line.place.rows(
        "update idempotency set created_at = now() - interval '25 hours' "
        "where tenant = $1",
        owner,
    )
    rows = await of_batch(line, first.batch)
    for row in rows if ended else rows[:1]:
        await line.place.end(row["id"], "cancelled", None)
    second = await submit_batch(line.rt, owner, [request()], KEY)
    assert (second.batch == first.batch) == kept
    third = await submit_batch(line.rt, owner, [request()], KEY)
    assert third.batch == second.batch


async def test_a_pools_steps_are_counted_for_all_who_ask(line: Line) -> None:
    place = line.place
    await place.release()  # the scheduler's tick makes the pool known
    keys = await place.submit(*(place.step(name) for name in "abcd"))
    await steps.wait(place.ledger, keys[0], 60, "limit", "")
    await place.claimed(keys[1])
    await release.count_load(place.ledger)
    seen = (await overview.pools_seen(place.ledger))[place.pool]
    assert (seen.queued, seen.running, seen.waiting) == (2, 1, 1)
    assert seen.counted_at
    assert seen.counted_at <= seen.at
    await place.end(keys[0].job, "cancelled", None)
    await release.count_load(place.ledger)
    seen = (await overview.pools_seen(place.ledger))[place.pool]
    assert (seen.queued, seen.running, seen.waiting) == (0, 1, 0)


async def test_a_batch_of_many_tools_is_stored_in_a_few_statements(line: Line) -> None:
    requests = [JobRequest(tool="shout", arguments={"text": str(n)}) for n in range(200)]
    made = await submit_batch(line.rt, tenant(), requests)
    rows = await of_batch(line, made.batch)
    assert len({row["chain_version"] for row in rows}) == 200
    assert await jobs.standing(line.ledger, rows[0]["tenant"], rows[0]["id"])
