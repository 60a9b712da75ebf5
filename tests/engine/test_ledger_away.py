"""PostgreSQL gone and back: workers wait in place, and no result is paid for again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llmgine_workers.engine import upkeep
from llmgine_workers.engine.outcome import Done
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.engine.watch import Watch
from llmgine_workers.ledger import connection
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.prices import Prices
from tests.engine.line import Line, chain, key, llm, open_line, until
from tests.engine.stand_ins import failing
from tests.servers import Postgres

pytestmark = pytest.mark.integration


@pytest.fixture
async def own(
    postgres: Postgres, redis_url: str, prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    """A line on a server of its own, which these tests break."""
    monkeypatch.setattr(connection, "LONGEST_PAUSE_S", 0.2)
    ledger = Ledger(postgres.url, "away_test")
    await migrate(ledger)
    async with open_line(ledger, redis_url, prices) as line:
        yield line
    await ledger.close()


async def is_away(line: Line) -> bool:
    try:
        async with line.ledger.connection() as found:
            await found.execute("select")
    except LedgerDown:
        return True
    return False


async def test_a_hint_waits_in_place_for_the_ledger(
    own: Line, postgres: Postgres
) -> None:
    rt = await own.worker()
    job = await own.submit(chain(llm("draft")))
    await asyncio.to_thread(postgres.kill)
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await until(lambda: is_away(own), "the ledger is away")
    await asyncio.sleep(0.3)
    assert not running.done()
    assert own.provider.calls == []
    await asyncio.to_thread(postgres.start)
    assert await asyncio.wait_for(running, 20) == Done()
    assert len(own.provider.calls) == 1


async def test_an_answer_waits_in_memory_for_the_ledger(
    own: Line, postgres: Postgres
) -> None:
    rt = await own.worker()
    job = await own.submit(chain(llm("draft"), llm("final")))
    own.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await until(lambda: own.provider.open, "the call is open")
    await asyncio.to_thread(postgres.kill)
    own.provider.let_go()
    await until(lambda: own.provider.finished, "the answer is here")
    await until(lambda: is_away(own), "the ledger is away")
    await asyncio.sleep(0.3)
    assert not running.done()

    await asyncio.to_thread(postgres.start)

    assert await asyncio.wait_for(running, 20) == Done()
    assert len(own.provider.calls) == 1
    assert await own.states(job) == {"draft": "succeeded", "final": "queued"}
    (attempt,) = await own.place.attempts(key(job))
    assert (attempt["state"], attempt["cost"]) == ("succeeded", 140)


async def test_a_failure_waits_in_memory_for_the_ledger_too(
    own: Line, postgres: Postgres
) -> None:
    rt = await own.worker()
    job = await own.submit(chain(llm("draft")))
    own.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await until(lambda: own.provider.open, "the call is open")
    await asyncio.to_thread(postgres.kill)
    own.provider.end("draft", failing("stream_cut"))
    await until(lambda: is_away(own), "the ledger is away")
    await asyncio.to_thread(postgres.start)
    await asyncio.wait_for(running, 20)
    row = await own.place.step_row(key(job))
    assert (row["state"], row["tries"]) == ("waiting", 1)


async def test_a_frozen_ledger_only_delays(own: Line, postgres: Postgres) -> None:
    rt = await own.worker()
    job = await own.submit(chain(llm("draft")))
    postgres.pause()
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await asyncio.sleep(0.5)
    assert not running.done()
    postgres.resume()
    assert await asyncio.wait_for(running, 20) == Done()
    assert len(own.provider.calls) == 1


async def test_nobody_is_declared_dead_for_an_outage(
    own: Line, postgres: Postgres
) -> None:
    seconds = iter(range(1000))
    watch = Watch(clock=lambda: next(seconds))
    rt = await own.worker()
    job = await own.submit(chain(llm("draft")))
    own.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await until(lambda: own.provider.open, "the call is open")
    for _ in range(14):
        await upkeep.watch_workers(own.rt, watch)
    await asyncio.to_thread(postgres.kill)
    with pytest.raises(LedgerDown):
        await upkeep.watch_workers(own.rt, watch)
    await asyncio.to_thread(postgres.start)
    for _ in range(14):
        await upkeep.watch_workers(own.rt, watch)
    await upkeep.take_back_lost_steps(own.rt)
    assert await own.states(job) == {"draft": "running"}
    own.provider.let_go()
    assert await asyncio.wait_for(running, 20) == Done()
    assert [a["state"] for a in await own.place.attempts(key(job))] == ["succeeded"]
