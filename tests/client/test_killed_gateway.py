"""A gateway is killed among posts and streams: nobody who uses it can tell."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import pytest

from llmgine_workers import AsyncClient, Client
from llmgine_workers.client import Event, Job, JobFinished, StepDelta, Text
from llmgine_workers.events import facts
from llmgine_workers.settings import Settings
from tests.client.killed import Mortal, mortal_gateway
from tests.gateway.conftest import Live, Seat

pytestmark = pytest.mark.integration

POSTERS = 8
DEATHS = 2
MORE_POSTED = 40
MORE_HEARD = 5
BOUND_S = 60
INPUTS = {"text": "Prices rose."}


class Witness(httpx2.AsyncHTTPTransport):
    """Counts what the client had to bear."""

    broken = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except httpx2.TransportError:
            self.broken += 1
            raise


@dataclass
class Story:
    """What was asked and what came of it."""

    tenant: str
    posted: dict[str, Job] = field(default_factory=dict)
    broken: int = 0
    written: dict[str, str] = field(default_factory=dict)
    read: dict[str, list[Event]] = field(default_factory=dict)
    read_at_death: list[int] = field(default_factory=list)

    def heard(self) -> list[int]:
        """How many events each reader has."""
        return [len(events) for events in self.read.values()]

    async def goes_on(self) -> None:
        """Until more jobs were posted and every reader has heard more."""
        posted, heard = len(self.posted) + MORE_POSTED, self.heard()
        while len(self.posted) < posted or any(  # noqa: ASYNC110 - others do it
            now < before + MORE_HEARD
            for now, before in zip(self.heard(), heard, strict=True)
        ):
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Stage:
    """Everybody who takes part."""

    live: Live
    gateway: Mortal
    client: AsyncClient
    seat: Seat
    story: Story
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self) -> None:
        """One poster: job after job, each with a key of its own."""
        while not self.over.is_set():
            key = str(uuid4())
            made = await self.client.submit("summarize", INPUTS, idempotency_key=key)
            self.story.posted[key] = made

    async def speak(self, job: Job) -> None:
        """What a worker would do meanwhile: it does not know about gateways."""
        said, emit = 0, self.live.rt.events.emit
        await emit(facts.StepStarted(UUID(job.id), "draft", 1, "openai/gpt-5-mini"))
        self.story.written[job.id] = ""
        while not self.over.is_set():
            said += 1
            word = f"{said} "
            self.story.written[job.id] += word
            await emit(facts.StepDelta(UUID(job.id), "draft", 1, text=word))
            await asyncio.sleep(0.02)  # the pace of a model
        await self.live.succeed(UUID(job.id))

    async def read(self, job: Job) -> None:
        seen = self.story.read[job.id]
        async for event in self.client.stream(job):
            seen.append(event)

    async def read_blocking(self, job: Job) -> None:
        """The other client, in a thread."""
        seen = self.story.read[job.id]

        def read() -> None:
            with Client(self.gateway.url, self.seat.text, retry_s=BOUND_S) as client:
                for event in client.stream(job):
                    seen.append(event)

        await asyncio.to_thread(read)

    async def kill_it_now_and_then(self) -> None:
        for _ in range(DEATHS):
            await self.story.goes_on()
            await self.gateway.kill()
            self.story.read_at_death += self.story.heard()
            await self.gateway.start()
        await self.story.goes_on()
        self.over.set()


@pytest.fixture(scope="module")
async def story(
    live: Live, live_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    seat, witness = await live.seat("submit", "read"), Witness()
    folder: Path = tmp_path_factory.mktemp("killed")
    async with (
        asyncio.timeout(BOUND_S),
        mortal_gateway(live_settings, folder) as gateway,
        AsyncClient(gateway.url, seat.text, retry_s=BOUND_S, transport=witness) as client,
    ):
        stage = Stage(live, gateway, client, seat, Story(seat.tenant))
        streamed = [
            await client.submit("summarize", INPUTS, idempotency_key=f"streamed {n}")
            for n in range(3)
        ]
        stage.story.posted |= {f"streamed {n}": job for n, job in enumerate(streamed)}
        stage.story.read = {job.id: [] for job in streamed}
        first, *others = streamed
        async with asyncio.TaskGroup() as group:
            for _ in range(POSTERS):
                group.create_task(stage.post())
            for job in streamed:
                group.create_task(stage.speak(job))
            group.create_task(stage.read_blocking(first))
            for job in others:
                group.create_task(stage.read(job))
            group.create_task(stage.kill_it_now_and_then())
        stage.story.broken = witness.broken
    return stage.story


async def test_there_are_as_many_jobs_as_keys(story: Story, live: Live) -> None:
    made = {job.id for job in story.posted.values()}
    assert len(made) == len(story.posted) > DEATHS * MORE_POSTED
    async with live.rt.ledger.connection() as connection:
        kept = await connection.fetch(
            "select id from jobs where tenant = $1", story.tenant
        )
    assert {str(row["id"]) for row in kept} == made
    assert story.broken >= DEATHS, "the gateway died where nobody noticed"


async def test_every_stream_is_whole(story: Story) -> None:
    assert len(story.read) == 3
    for job, events in story.read.items():
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert Counter(type(event) for event in events)[JobFinished] == 1
        assert isinstance(events[-1], JobFinished)
        deltas = [event for event in events if isinstance(event, StepDelta)]
        assert "".join(delta.text or "" for delta in deltas) == story.written[job]
        assert list(Text(events))[-1] == story.written[job]


async def test_the_gateway_died_in_the_middle_of_every_stream(story: Story) -> None:
    whole = min(len(events) for events in story.read.values())
    assert len(story.read_at_death) == 3 * DEATHS
    assert all(MORE_HEARD <= count < whole for count in story.read_at_death)
