"""A pool that a person paused: nothing begins, nothing fails, everything goes on."""

from __future__ import annotations

import pytest

from llmgine_workers.engine import upkeep
from llmgine_workers.engine.outcome import Done, Wait
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.ledger import pools, release
from llmgine_workers.resilience.admission import Admission
from tests.engine.line import Line, chain, key, llm

pytestmark = pytest.mark.integration


async def test_a_hint_that_is_out_already_waits_until_the_pool_goes_on(
    line: Line,
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft")))
    await pools.pause(line.ledger, "openai", "the bill")
    await rt.pools.refresh()
    outcome = await run_step(rt, job, "draft")
    assert isinstance(outcome, Wait)
    assert outcome.reason == "paused"
    row = await line.place.step_row(key(job))
    assert (row["state"], row["reason"], row["calls"]) == ("waiting", "paused", 0)
    assert row["detail"] == "the pool openai was paused by an operator: the bill"
    await release.wake(line.ledger)
    assert await line.place.state(key(job)) == "waiting"

    assert await pools.resume(line.ledger, "openai")
    await release.wake(line.ledger)
    await rt.pools.refresh()
    assert await line.place.state(key(job)) == "queued"
    assert await run_step(rt, job, "draft") == Done()
    assert not await pools.resume(line.ledger, "openai")


async def test_nothing_is_released_into_a_paused_pool(line: Line) -> None:
    admission = Admission(line.ephemeral, (), line.rt.events)
    job = await line.submit(chain(llm("draft")))
    await pools.pause(line.ledger, "openai", None)
    try:
        for _ in range(2):
            await upkeep.release_steps(line.rt, admission, "openai")
            await line.rt.pools.refresh()
            row = await line.place.step_row(key(job))
            assert (row["state"], row["released_at"]) == ("queued", None)
        assert line.rt.pools.release_now("t", [("openai", 0)]) == [False]
    finally:
        await pools.resume(line.ledger, "openai")
    released: list[object] = []
    while not released:
        found = await release.tick(line.ledger, "openai", 2000, 2000)
        released = [one for one in found or [] if one.key == key(job)]
        assert found, "the job is among what is held"


async def test_a_second_pause_changes_only_the_reason(line: Line) -> None:
    await pools.pause(line.ledger, "p-twice", "one")
    first = (await pools.states(line.ledger))["p-twice"]
    await pools.pause(line.ledger, "p-twice", "two")
    second = (await pools.states(line.ledger))["p-twice"]
    assert second.paused_at == first.paused_at
    assert second.paused_reason == "two"
