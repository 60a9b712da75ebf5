"""Two gateways: one with stand-ins behind it for unit tests, and the real thing."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from llmgine_workers import clock, keys
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.events.metrics import Metrics
from llmgine_workers.ledger import api_keys, jobs
from llmgine_workers.ledger.api_keys import ApiKey
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.llm import Usage
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import Settings

MAX_BODY = 64 * 1024
WEBHOOK_KEY = b"k" * 24
CHAIN = {
    "name": "summarize",
    "description": "Say it shorter.",
    "inputs": {
        "text": {"type": "string"},
        "sentences": {"type": "integer", "maximum": 20, "default": 3},
    },
    "steps": [
        {
            "name": "draft",
            "llm": {
                "model": "openai/gpt-5-mini",
                "prompt": "In {{ inputs.sentences }} sentences: {{ inputs.text }}",
            },
        }
    ],
}


@dataclass(frozen=True)
class Seat:
    """A key of a tenant, as a client's headers."""

    tenant: str
    text: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


@dataclass(frozen=True)
class StandIn:
    """A gateway without stores: `client` speaks to it, `keys` holds who may."""

    app: FastAPI
    client: httpx2.AsyncClient
    keys: dict[str, ApiKey]
    rt: SimpleNamespace

    def seat(self, *scopes: str, tenant: str = "acme") -> Seat:
        made = keys.new_key()
        self.keys[made.id] = ApiKey(
            made.id, tenant, frozenset(scopes), made.hash, clock.now(), None
        )
        return Seat(tenant, made.text)


@pytest.fixture
async def standin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandIn]:
    known: dict[str, ApiKey] = {}

    async def found(ledger: Ledger, key_id: str) -> ApiKey | None:
        return known.get(key_id)

    monkeypatch.setattr(api_keys, "found", found)
    settings = Settings.model_validate({"gateway": {"max_body": MAX_BODY}})
    rt = SimpleNamespace(settings=settings, ledger=None, streams=None, metrics=Metrics())

    @asynccontextmanager
    async def opener(_: Settings, __: Mapping[str, str]) -> AsyncIterator[Any]:
        yield rt

    app = create_app(settings, {}, opener)
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield StandIn(app, client, known, rt)


@dataclass(frozen=True)
class Live:
    """The real gateway on a real port, and what a worker would do behind it."""

    url: str
    rt: Runtime
    app: FastAPI
    client: httpx2.AsyncClient

    async def seat(self, *scopes: str, tenant: str | None = None) -> Seat:
        made, tenant = keys.new_key(), tenant or f"tenant-{uuid4().hex[:8]}"
        await api_keys.insert(self.rt.ledger, made.id, made.hash, tenant, scopes)
        return Seat(tenant, made.text)

    async def submitted(self, seat: Seat, **more: Any) -> UUID:
        body = {"chain": "summarize", "inputs": {"text": "Prices rose."}, **more}
        answer = await self.client.post("/v1/jobs", json=body, headers=seat.headers)
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    async def succeed(self, job: UUID, output: str = "Prices rose", **told: bool) -> None:
        """End the job in the ledger, and tell it to its stream unless `told=False`."""
        async with self.rt.ledger.transaction() as connection:
            assert await jobs.lock(connection, job)
            await connection.execute(
                "update steps set state = 'succeeded', started_at = now(), "
                "finished_at = now() where job_id = $1",
                job,
            )
            await connection.execute(
                "insert into payloads values ($1, 'draft', 'output', $2)",
                job, orjson.dumps({"output": output, "text": output}).decode(),
            )  # fmt: skip
            await jobs.succeed(connection, {job: orjson.dumps(output).decode()})
        if told.get("told", True):
            await self.rt.events.emit(
                facts.JobFinished(
                    job, state="succeeded", output=output, usage=Usage(), cost_usd=0.0
                )
            )

    async def fail(self, job: UUID) -> None:
        failure = Failure("tool_failed", "no", step="draft", attempts=1)
        async with self.rt.ledger.transaction() as connection:
            locked = await jobs.lock(connection, job)
            assert locked is not None
            await jobs.decide_end(connection, locked, "failed", failure)
        await self.rt.events.emit(facts.JobFinished(job, state="failed", error=failure))


@pytest.fixture(scope="session")
def live_settings(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    folder: Path = tmp_path_factory.mktemp("chains")
    return Settings.model_validate(
        {
            "ledger": {"url": postgres_url},
            "broker": {"url": redis_url, "prefix": "gateway_test"},
            "redis": {"url": redis_url},
            "gateway": {"listen": "127.0.0.1:0", "max_body": MAX_BODY},
            "chains": {"paths": [str(folder)]},
            "webhooks": {
                "secret": f"whsec_{base64.b64encode(WEBHOOK_KEY).decode()}",
                "allow": ["127.0.0.0/8"],
            },
            "providers": {
                "openai": {"wire": "openai", "simulated": True},
                "anthropic": {"wire": "anthropic", "key_env": "NOT_SET"},
            },
            "models": {"fast": ["openai/gpt-5-mini"]},
        }
    )


@pytest.fixture(scope="session")
async def live(live_settings: Settings) -> AsyncIterator[Live]:
    ledger = Ledger(live_settings.ledger.url, "gateway_test", connections=1)
    await migrate(ledger)
    await ledger.close()
    app = create_app(live_settings, {})
    async with app.router.lifespan_context(app), served(app) as url:
        rt = app.state.gateway.rt
        from chains import load_chain

        await rt.chains.push(load_chain(CHAIN))
        async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
            yield Live(url, rt, app, client)


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The application on a free port, in this loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
