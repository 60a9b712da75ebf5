"""One Idempotency-Key at two gateways, while the first commit is held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from llmgine_workers import keys
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.settings import Settings
from tests.engine.line import until
from tests.gateway.conftest import CHAIN
from tests.gateway.test_process import gateway_process

HELD_S = 2.0
COUNT = 100
LOCK = 4711
# Deferred, so it holds the commit of whoever has inserted the key, and nobody else.
HOLD = f"""
create function hold() returns trigger language plpgsql as $$
begin perform pg_advisory_xact_lock({LOCK}); return null; end $$;
create constraint trigger hold after insert on idempotency
deferrable initially deferred for each row
when (new.key = 'held') execute function hold()
"""


@pytest.fixture
async def ledger(new_database: Callable[[], str]) -> AsyncIterator[Ledger]:
    """A ledger of its own, in which the commit of one key can be held."""
    ledger = Ledger(new_database(), "one_key", connections=2)
    await migrate(ledger)
    async with ledger.connection() as connection:
        await connection.execute(HOLD)
    yield ledger
    await ledger.close()


@asynccontextmanager
async def gateways(
    ledger: Ledger, redis_url: str, folder: Path
) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """Two processes, and a client for each with one tenant's key."""
    settings = Settings.model_validate(
        {
            "ledger": {"url": ledger.url},
            "broker": {"url": redis_url, "prefix": ledger.schema},
            "redis": {"url": redis_url},
            "providers": {"openai": {"wire": "openai", "simulated": True}},
        }
    )
    made = keys.new_key()
    scopes = ("submit", "read")
    await api_keys.insert(ledger, made.id, made.hash, "acme", scopes)
    headers = {"Authorization": f"Bearer {made.text}"}
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            process = await stack.enter_async_context(
                gateway_process(settings, folder / name)
            )
            client = httpx2.AsyncClient(base_url=process.url, headers=headers, timeout=30)
            clients.append(await stack.enter_async_context(client))
        yield clients


async def is_held(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether somebody waits to commit."""
    waiting = await connection.fetchval(
        "select true from pg_locks where locktype = 'advisory' and not granted "
        "and objid = $1",
        LOCK,
    )
    return bool(waiting)


@pytest.mark.integration
async def test_a_hundred_equal_posts_at_two_gateways_make_one_job(
    ledger: Ledger, redis_url: str, tmp_path: Path
) -> None:
    body = {"chain": CHAIN, "inputs": {"text": "Prices rose."}, "metadata": {"b": "a"}}
    held = {"Idempotency-Key": "held"}
    holder = await asyncpg.connect(ledger.url)
    async with gateways(ledger, redis_url, tmp_path) as clients:
        await holder.execute("select pg_advisory_lock($1)", LOCK)
        posts = [
            asyncio.ensure_future(
                clients[n % 2].post("/v1/jobs", json=body, headers=held)
            )
            for n in range(COUNT)
        ]
        await until(lambda: is_held(holder), "the first commit is held")
        for client in clients:  # others' keys, and none, pass them by
            for other in ({}, {"Idempotency-Key": uuid4().hex}):
                answer = await client.post("/v1/jobs", json=body, headers=other)
                assert answer.status_code == 202, answer.text
        done, _ = await asyncio.wait(posts, timeout=HELD_S)
        assert not done, "nobody is answered before the commit"
        await holder.execute("select pg_advisory_unlock($1)", LOCK)
        answers = await asyncio.gather(*posts)
        await holder.close()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1, "also what each says is equal"
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None"] + ["true"] * (COUNT - 1)
    async with ledger.connection() as connection:
        assert await connection.fetchval("select count(*) from jobs") == 1 + 4
        assert (
            await connection.fetchval(
                "select job_id::text from idempotency where key = 'held'"
            )
            == (answers[0].json()["id"])
        )
