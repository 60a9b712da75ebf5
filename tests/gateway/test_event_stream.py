from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from gateway import following
from gateway.event_stream import PING, as_sse, frames, is_all_told, with_pings
from gateway.following import wait_until_ended
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.streams import Batch, Entry, Streams
from llmgine_workers.ledger.connection import Ledger
from tests.gateway.conftest import Live
from tests.servers import RedisServer

BOUND_S = 10


@dataclass(frozen=True)
class Frame:
    """One server-sent event as a client reads it."""

    id: int
    event: str
    data: dict[str, Any]


def parsed(raw: bytes) -> Frame:
    lines = raw.decode().removesuffix("\n\n").split("\n")
    fields = dict(line.split(": ", 1) for line in lines)
    frame = Frame(int(fields["id"]), fields["event"], json.loads(fields["data"]))
    assert (frame.data["seq"], frame.data["type"]) == (frame.id, frame.event)
    return frame


@dataclass(frozen=True)
class Room:
    """A job of the real ledger, with a stream that a test may break."""

    live: Live
    ledger: Ledger
    streams: Streams
    job: UUID

    def frames(self, after: int = 0) -> AsyncGenerator[bytes, None]:
        return as_sse(frames(self.ledger, self.streams, self.job, after))

    async def all(self, after: int = 0) -> list[Frame]:
        async with asyncio.timeout(BOUND_S):
            return [parsed(raw) async for raw in self.frames(after)]

    async def read_into(self, seen: list[Frame]) -> None:
        async for raw in self.frames():
            frame = parsed(raw)
            seen.append(frame)

    async def tell(self, *kinds: str, begins: bool = False) -> None:
        body = json.dumps({"job": str(self.job)}, separators=(",", ":")).encode()
        entries = [Entry(kind, body) for kind in kinds]
        await self.streams.append(Batch(self.job, entries, begins=begins))

    async def told(self, after: int) -> bool:
        return await is_all_told(self.ledger, self.streams, self.job, after)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.05)


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE_S", 0.1)


@pytest.fixture
async def room(live: Live, redis_server: RedisServer) -> AsyncIterator[Room]:
    ephemeral = Ephemeral(redis_server.url, "t", answer_s=5.0, probe_every_s=0.1)
    seat = await live.seat("submit")
    job = await live.submitted(seat)
    yield Room(live, live.rt.ledger, Streams(ephemeral), job)
    await ephemeral.close()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 - what is asked for happens elsewhere
            await asyncio.sleep(0.01)


pytestmark = pytest.mark.integration


async def test_history_comes_first_and_the_last_event_closes(room: Room) -> None:
    await room.tell("job.queued", "step.started", "step.delta", begins=True)
    await room.live.succeed(room.job, told=False)
    await room.tell("step.finished", "job.finished")
    assert [(frame.id, frame.event) for frame in await room.all()] == [
        (1, "job.queued"),
        (2, "step.started"),
        (3, "step.delta"),
        (4, "step.finished"),
        (5, "job.finished"),
    ]


async def test_a_reader_that_comes_back_gets_exactly_what_it_missed(room: Room) -> None:
    await room.tell("job.queued", "step.started", begins=True)
    await room.live.succeed(room.job, told=False)
    await room.tell("step.finished", "job.finished")
    assert [frame.id for frame in await room.all(after=2)] == [3, 4]


async def test_what_happens_while_one_reads_comes_live(room: Room) -> None:
    await room.tell("job.queued", begins=True)
    seen: list[Frame] = []
    reading = asyncio.ensure_future(room.read_into(seen))
    await eventually(lambda: len(seen) == 1)
    await room.tell("step.delta")
    await eventually(lambda: len(seen) == 2)
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    await asyncio.wait_for(reading, BOUND_S)
    events = [frame.event for frame in seen]
    assert events == ["job.queued", "step.delta", "job.finished"]


async def test_the_end_of_an_earlier_run_closes_nothing(room: Room) -> None:
    await room.tell("job.queued", "job.finished", begins=True)
    seen: list[Frame] = []
    reading = asyncio.ensure_future(room.read_into(seen))
    await eventually(lambda: len(seen) == 2)
    await room.tell("job.replayed", "step.finished")
    await eventually(lambda: len(seen) == 4)
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    await asyncio.wait_for(reading, BOUND_S)
    assert [frame.id for frame in seen] == [1, 2, 3, 4, 5]


async def test_a_lost_stream_begins_again_with_a_snapshot(
    room: Room, redis_server: RedisServer
) -> None:
    await room.tell("job.queued", "step.started", begins=True)
    redis_server.flush()
    await room.tell("step.delta")
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    first, *rest = await room.all(after=2)
    assert first.event == "stream.snapshot"
    assert first.data["snapshot"]["job"]["id"] == str(room.job)
    assert first.data["snapshot"]["steps"][0]["output"] == "Prices rose"
    assert [frame.event for frame in rest] == ["step.delta", "job.finished"]
    numbers = [frame.id for frame in (first, *rest)]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert numbers[0] > 2


async def test_an_end_that_redis_never_heard_of_is_told_by_the_ledger(
    room: Room, redis_server: RedisServer
) -> None:
    await room.tell("job.queued", begins=True)
    redis_server.flush()
    await room.live.succeed(room.job, told=False)
    snapshot, finished = await room.all()
    assert snapshot.event == "stream.snapshot"
    assert finished.event == "job.finished"
    assert finished.id == snapshot.id + 1
    assert finished.data["state"] == "succeeded"
    assert finished.data["output"] == "Prices rose"
    assert finished.data["job"] == str(room.job)


@pytest.mark.usefixtures("short_silence")
async def test_an_end_whose_event_was_lost_is_noticed(room: Room) -> None:
    await room.tell("job.queued", begins=True)
    reading = asyncio.ensure_future(room.all())
    await room.live.succeed(room.job, told=False)
    told = await asyncio.wait_for(reading, BOUND_S)
    assert [frame.event for frame in told][-2:] == ["stream.snapshot", "job.finished"]


async def test_without_redis_the_reader_gets_a_snapshot_and_the_end(
    room: Room, redis_server: RedisServer
) -> None:
    await room.tell("job.queued", begins=True)
    seen: list[Frame] = []
    reading = asyncio.ensure_future(room.read_into(seen))
    await eventually(lambda: len(seen) == 1)
    redis_server.kill()
    await room.live.succeed(room.job, told=False)
    await asyncio.wait_for(reading, BOUND_S)
    assert [frame.event for frame in seen] == [
        "job.queued", "stream.snapshot", "job.finished",
    ]  # fmt: skip


async def test_when_redis_comes_back_empty_the_reader_goes_on(
    room: Room, redis_server: RedisServer
) -> None:
    await room.tell("job.queued", "step.started", begins=True)
    seen: list[Frame] = []
    reading = asyncio.ensure_future(room.read_into(seen))
    await eventually(lambda: len(seen) == 2)
    redis_server.kill()
    redis_server.start()
    redis_server.flush()
    await eventually(lambda: "stream.snapshot" in [frame.event for frame in seen])
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    await asyncio.wait_for(reading, BOUND_S)
    assert seen[-1].event == "job.finished"
    assert [frame.id for frame in seen] == sorted(frame.id for frame in seen)


async def test_a_reader_that_knows_the_end_has_been_told_all(
    room: Room, redis_server: RedisServer
) -> None:
    await room.tell("job.queued", begins=True)
    assert not await room.told(1)
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    assert not await room.told(0)
    assert not await room.told(1)
    assert await room.told(2)
    redis_server.flush()
    assert not await room.told(2)
    *_, last = await room.all(after=2)
    assert await room.told(last.id)
    redis_server.kill()
    assert await room.told(last.id)


async def test_a_job_nobody_streamed_is_told_from_the_ledger(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    await live.succeed(job, told=False)
    await live.rt.streams.expire(job, 0)
    answer = await live.client.get(f"/v1/jobs/{job}/events", headers=seat.headers)
    assert answer.status_code == 200
    last = parsed(answer.content.split(b"\n\n")[-2] + b"\n\n")
    assert last.event == "job.finished"
    again = await live.client.get(
        f"/v1/jobs/{job}/events", headers={**seat.headers, "Last-Event-ID": str(last.id)}
    )
    assert (again.status_code, again.content) == (204, b"")


async def test_a_wait_ends_with_the_event(room: Room) -> None:
    await room.tell("job.queued", begins=True)
    never = asyncio.Event()
    waiting = asyncio.ensure_future(
        wait_until_ended(room.ledger, room.streams, room.job, BOUND_S, never)
    )
    await room.tell("step.delta")
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()
    await room.live.succeed(room.job, told=False)
    await room.tell("job.finished")
    await asyncio.wait_for(waiting, 2)


async def test_a_wait_falls_back_to_the_ledger(
    room: Room, redis_server: RedisServer
) -> None:
    redis_server.kill()
    never = asyncio.Event()
    waiting = asyncio.ensure_future(
        wait_until_ended(room.ledger, room.streams, room.job, BOUND_S, never)
    )
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    await room.live.succeed(room.job, told=False)
    await asyncio.wait_for(waiting, 2)


async def test_a_wait_ends_when_the_process_does(room: Room) -> None:
    stopping = asyncio.Event()
    waiting = asyncio.ensure_future(
        wait_until_ended(room.ledger, room.streams, room.job, BOUND_S, stopping)
    )
    await asyncio.wait({waiting}, timeout=0.1)
    stopping.set()
    await asyncio.wait_for(waiting, 1)


async def quiet(*, after: bytes) -> AsyncGenerator[bytes, None]:
    """One frame, then silence."""
    yield after
    await asyncio.Event().wait()


async def test_silence_is_filled_with_pings() -> None:
    source = with_pings(quiet(after=b"frame"), asyncio.Event(), every_s=0.01)
    async with aclosing(source):
        assert [await anext(source) for _ in range(3)] == [b"frame", PING, PING]


async def test_a_stream_ends_when_the_process_does() -> None:
    stopping = asyncio.Event()
    source = with_pings(quiet(after=b"frame"), stopping, every_s=30)
    assert await anext(source) == b"frame"
    stopping.set()
    async with asyncio.timeout(1):
        assert await anext(source, None) is None


async def test_a_reader_that_leaves_closes_what_it_read_from() -> None:
    closed = asyncio.Event()

    async def watched() -> AsyncGenerator[bytes, None]:
        try:
            yield b"frame"
            await asyncio.Event().wait()
        finally:
            closed.set()

    source = with_pings(watched(), asyncio.Event())
    await anext(source)
    await source.aclose()
    async with asyncio.timeout(1):
        await closed.wait()
