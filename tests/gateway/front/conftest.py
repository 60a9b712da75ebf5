"""OpenAI's own clients, a gateway, a worker without Celery, and the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest

from gateway.app import create_app
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.ledger import release
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import Settings
from llmgine_workers.simulator import Simulator, SimulatorConfig
from llmgine_workers.worker_runtime import WorkerRuntime, open_worker
from tests.gateway.conftest import Live, Seat, served

_QUEUED = "select job_id, path from steps where state = 'queued' and pool = $1"
MODEL = "openai/gpt-5-mini"
KEYS = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-ant-test"}


@dataclass(frozen=True)
class Front:
    """The gateway with everything behind it; whoever holds `pause` lets jobs wait."""

    url: str
    rt: Runtime
    simulator: Simulator
    pause: asyncio.Lock
    live: Live
    http: httpx2.AsyncClient = field(repr=False)

    async def seat(self, *scopes: str) -> Seat:
        return await self.live.seat(*(scopes or ("submit", "read")))


def settings_for(postgres_url: str, redis_url: str, simulator_url: str) -> Settings:
    return Settings.model_validate(
        {
            "ledger": {"url": postgres_url},
            "broker": {"url": redis_url, "prefix": "front_test"},
            "redis": {"url": redis_url},
            "gateway": {"listen": "127.0.0.1:0", "max_body": 256 * 1024},
            "providers": {
                "openai": {
                    "wire": "openai",
                    "key_env": "OPENAI_API_KEY",
                    "base_url": f"{simulator_url}/v1",
                },
                "anthropic": {
                    "wire": "anthropic",
                    "key_env": "ANTHROPIC_API_KEY",
                    "base_url": simulator_url,
                },
                "groq": {"wire": "openai", "key_env": "NOT_SET"},
            },
            "models": {
                "fast": [MODEL],
                "either": ["anthropic/claude-haiku-4-5", MODEL],
                "nobody": ["groq/openai/gpt-oss-20b"],
            },
            "prices": {"openai/*": {"input": 1.0, "output": 2.0}},
        }
    )


@pytest.fixture(scope="session")
async def front(postgres_url: str, redis_url: str) -> AsyncIterator[Front]:
    async with Simulator(SimulatorConfig(seed=3)) as simulator:
        settings = settings_for(postgres_url, redis_url, simulator.url)
        ledger = Ledger(postgres_url, "front_test", connections=1)
        await migrate(ledger)
        await ledger.close()
        app = create_app(settings, KEYS)
        pause = asyncio.Lock()
        async with (
            app.router.lifespan_context(app),
            served(app) as url,
            working(settings, "openai", pause),
            working(settings, "anthropic", pause),
            httpx2.AsyncClient(base_url=url, timeout=20) as http,
        ):
            rt = app.state.gateway.rt
            live = Live(url, rt, app, http)
            yield Front(url, rt, simulator, pause, live, http)


@asynccontextmanager
async def working(
    settings: Settings, pool: str, pause: asyncio.Lock
) -> AsyncIterator[None]:
    """A worker that looks for its steps in the ledger, unless it is paused."""
    async with open_worker(settings, KEYS, pool, 50) as rt:
        task = asyncio.ensure_future(_work(rt, pause))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _work(rt: WorkerRuntime, pause: asyncio.Lock) -> None:
    while True:
        # The loop stands still while tests run that are not asynchronous, and then all
        # time, of this and of a statement, may be over at once: that is no failure.
        with suppress(TimeoutError, LedgerDown):
            async with pause, asyncio.timeout(30):
                await release.wake(rt.ledger)
                async with rt.ledger.connection() as connection:
                    rows = await connection.fetch(_QUEUED, rt.pool)
                steps = [run_step(rt, row["job_id"], row["path"]) for row in rows]
                await asyncio.gather(*steps)
        await asyncio.sleep(0.01)


class Asking:
    """One of their clients; what it answers, streams as the list of their chunks."""

    def __init__(self, client: openai.OpenAI | openai.AsyncOpenAI) -> None:
        self.client = client

    async def chat(self, text: str = "Say hi.", **more: Any) -> Any:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}
        return await self.call(lambda c: c.chat.completions.create(**body))

    async def call(self, of: Callable[[Any], Any]) -> Any:
        if isinstance(self.client, openai.OpenAI):
            return await asyncio.to_thread(lambda: _whole(of(self.client)))
        answer = await of(self.client)
        if isinstance(answer, openai.AsyncStream):
            return [chunk async for chunk in answer]
        return answer


def _whole(answer: Any) -> Any:
    return list(answer) if isinstance(answer, openai.Stream) else answer


@pytest.fixture
async def seat(front: Front) -> Seat:
    """A new tenant's key."""
    return await front.seat()


@pytest.fixture(params=["sync", "async"])
async def theirs(
    request: pytest.FixtureRequest, front: Front, seat: Seat
) -> AsyncIterator[Asking]:
    """The official client, told nothing but an address and a key."""
    where: dict[str, Any] = {"base_url": f"{front.url}/v1", "api_key": seat.text}
    if request.param == "sync":
        with openai.OpenAI(**where) as client:
            yield Asking(client)
    else:
        async with openai.AsyncOpenAI(**where) as client:
            yield Asking(client)


@pytest.fixture
async def asking(front: Front, seat: Seat) -> AsyncIterator[Asking]:
    """The asynchronous one alone."""
    where: dict[str, Any] = {"base_url": f"{front.url}/v1", "api_key": seat.text}
    async with openai.AsyncOpenAI(**where) as client:
        yield Asking(client)


@pytest.fixture
def mark() -> str:
    """A word that is in no other test's prompt."""
    return uuid4().hex[:12]
