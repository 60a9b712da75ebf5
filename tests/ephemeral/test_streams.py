"""A job's stream: numbers without gaps, resumable, bounded, honest about what is lost."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pytest

from llmgine_workers.clock import uuid7
from llmgine_workers.ephemeral import broadcast
from llmgine_workers.ephemeral import streams as streams_module
from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown
from llmgine_workers.ephemeral.streams import Batch, Entry, Page, Streams
from tests.ephemeral.conftest import PATIENT_S, NewEphemeral, eventually
from tests.servers import RedisServer

pytestmark = pytest.mark.integration
LOST_BASE = 10**12
"""Numbers of a stream that was lost begin at the time in ms, far above this."""


@pytest.fixture
def streams(ephemeral: Ephemeral) -> Streams:
    return Streams(ephemeral)


@pytest.fixture
def job() -> UUID:
    return uuid7()


def batch(job: UUID, *texts: str, begins: bool = True) -> Batch:
    entries = [Entry("step.delta", json.dumps({"text": t}).encode()) for t in texts]
    return Batch(job, entries, begins)


def texts(page: Page) -> list[str]:
    return [json.loads(event.data)["text"] for event in page.events]


def numbers(page: Page) -> list[int]:
    return [event.seq for event in page.events]


async def test_events_are_numbered_from_1_in_their_order(
    streams: Streams, job: UUID
) -> None:
    assert await streams.append(batch(job, "a", "b")) == [2]
    assert await streams.append(batch(job, "c")) == [3]
    page = await streams.read(job)
    assert (numbers(page), texts(page)) == ([1, 2, 3], ["a", "b", "c"])
    assert (page.last, page.gap) == (3, False)


async def test_the_public_object_starts_with_type_and_seq(
    streams: Streams, job: UUID
) -> None:
    await streams.append(batch(job, "é\u2028"))
    (event,) = (await streams.read(job)).events
    assert event.data.startswith(b'{"type":"step.delta","seq":1,"text":')
    assert json.loads(event.data) == {"type": "step.delta", "seq": 1, "text": "é\u2028"}


async def test_several_jobs_are_written_in_one_call(streams: Streams) -> None:
    first, second = uuid7(), uuid7()
    assert await streams.append(batch(first, "a", "b"), batch(second, "c")) == [2, 1]
    assert texts(await streams.read(second)) == ["c"]


async def test_appenders_at_once_leave_no_gap_and_lose_nothing(
    job: UUID, redis_url: str, new_ephemeral: NewEphemeral
) -> None:
    everyone = [
        Streams(new_ephemeral(redis_url, f"gaps-{job}", answer_s=PATIENT_S))
        for _ in range(8)
    ]

    async def append(who: int, streams: Streams) -> None:
        for n in range(20):
            await streams.append(batch(job, *[f"{who}.{n}.{i}" for i in range(n % 3)]))

    await asyncio.gather(*(append(who, s) for who, s in enumerate(everyone)))
    page = await everyone[0].read(job, limit=1000)
    assert numbers(page) == list(range(1, 8 * 19 + 1))
    assert len(set(texts(page))) == 8 * 19


async def test_reading_resumes_after_a_number(streams: Streams, job: UUID) -> None:
    await streams.append(batch(job, "a", "b", "c", "d"))
    page = await streams.read(job, after=1, limit=2)
    assert (texts(page), page.last) == (["b", "c"], 3)
    assert texts(await streams.read(job, after=page.last)) == ["d"]
    assert await streams.read(job, after=4) == Page((), 4, gap=False)


async def test_following_delivers_what_comes_and_empty_pages_in_silence(
    streams: Streams, job: UUID
) -> None:
    await streams.append(batch(job, "a"))
    follower = streams.follow(job, silence_s=0.05)
    assert texts(await anext(follower)) == ["a"]
    assert await anext(follower) == Page((), 1, gap=False)
    waiting = asyncio.ensure_future(anext(follower))
    await streams.append(batch(job, "b", "c"))
    assert texts(await waiting) == ["b", "c"]


async def test_a_follower_can_be_cancelled_and_another_resumes_exactly(
    streams: Streams, job: UUID
) -> None:
    await streams.append(batch(job, "a", "b"))
    follower = streams.follow(job, after=1, silence_s=5.0)
    assert texts(await anext(follower)) == ["b"]
    waiting = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await streams.append(batch(job, "c"))
    assert texts(await anext(streams.follow(job, after=2))) == ["c"]


async def test_a_reader_older_than_the_stream_is_told_of_the_gap(
    streams: Streams, job: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "MAX_EVENTS", 100)
    for n in range(10):
        await streams.append(batch(job, *(f"{n}.{i}" for i in range(50))))
    page = await streams.read(job, after=3)
    assert page.gap
    assert page.snapshot_seq == page.events[0].seq - 1 > 3
    assert page.last == 500
    assert len(page.events) < 300  # bounded (Redis trims whole blocks)


async def test_a_lost_stream_goes_on_above_every_number_it_can_have_had(
    streams: Streams, ephemeral: Ephemeral, job: UUID
) -> None:
    await streams.append(batch(job, "a", "b"))
    await ephemeral.command("DEL", ephemeral.key("stream", str(job)))
    assert await streams.read(job, after=2) == Page((), 0, gap=True)
    await streams.append(batch(job, "c", begins=False))
    for after in (0, 1, 2):
        page = await streams.read(job, after)
        assert page.gap
        assert page.events[0].seq > LOST_BASE
        assert texts(page) == ["c"]


async def test_a_follower_is_told_when_its_stream_was_lost_meanwhile(
    streams: Streams, ephemeral: Ephemeral, job: UUID
) -> None:
    await streams.append(batch(job, "a"))
    follower = streams.follow(job)
    assert not (await anext(follower)).gap
    await ephemeral.command("DEL", ephemeral.key("stream", str(job)))
    waiting = asyncio.ensure_future(anext(follower))
    await streams.append(batch(job, "b", begins=False))
    page = await waiting
    assert (page.gap, texts(page)) == (True, ["b"])


async def test_who_has_lost_a_step_writes_nothing_about_it(
    streams: Streams, job: UUID
) -> None:
    def said(text: str, fence: int) -> Entry:
        return Entry("step.delta", json.dumps({"text": text}).encode(), "draft", fence)

    await streams.append(Batch(job, [said("old", 1)], begins=True))
    await streams.append(Batch(job, [said("new", 2), said("late", 1)]))
    await streams.append(Batch(job, [said("later", 1), said("on", 2)]))
    await streams.append(Batch(job, [said("last", 1)]))
    page = await streams.read(job)
    assert texts(page) == ["old", "new", "on"]
    assert numbers(page) == [1, 2, 3]


async def test_followers_of_many_jobs_share_one_connection(
    redis_url: str, new_ephemeral: NewEphemeral
) -> None:
    ephemeral = new_ephemeral(redis_url, answer_s=PATIENT_S)
    streams, jobs = Streams(ephemeral), [uuid7() for _ in range(50)]
    followers = [streams.follow(job) for job in jobs for _ in range(2)]
    await asyncio.gather(*(anext(follower) for follower in followers))
    pages = asyncio.gather(*(anext(follower) for follower in followers))
    await streams.append(*(batch(job, str(job)) for job in jobs))
    heard = [texts(page) for page in await pages]
    assert heard == [[str(job)] for job in jobs for _ in range(2)]
    channels = [ephemeral.key("stream", str(job)) for job in jobs]
    told = await ephemeral.command("PUBSUB", "NUMSUB", *channels)
    assert told[1::2] == [1] * 50
    for follower in followers:
        await follower.aclose()
    await eventually_silent(ephemeral, channels)
    await streams.close()


async def eventually_silent(ephemeral: Ephemeral, channels: list[str]) -> None:
    for _ in range(500):
        if not any((await ephemeral.command("PUBSUB", "NUMSUB", *channels))[1::2]):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("somebody still listens")


async def test_a_slow_follower_reads_again_what_was_not_kept_for_it(
    streams: Streams, job: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_HELD", 3)
    follower = streams.follow(job)
    await anext(follower)
    for n in range(10):
        await streams.append(batch(job, str(n)))
    seen: list[str] = []
    async with asyncio.timeout(5):
        while len(seen) < 10:
            page = await anext(follower)
            assert not page.gap
            seen += texts(page)
    assert seen == [str(n) for n in range(10)]
    await follower.aclose()


async def test_a_stream_ends_some_time_after_its_job(
    streams: Streams, ephemeral: Ephemeral, job: UUID
) -> None:
    await streams.append(batch(job, "a"))
    key = ephemeral.key("stream", str(job))
    assert await ephemeral.command("TTL", key) > 3600
    await streams.expire(job, 900)
    assert 890 < await ephemeral.command("TTL", key) <= 900


async def test_following_says_when_redis_dies_and_resumes_when_it_is_back(
    job: UUID, redis_server: RedisServer, new_ephemeral: NewEphemeral
) -> None:
    ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
    streams = Streams(ephemeral)
    await streams.append(batch(job, "a"))
    follower = streams.follow(job)
    assert texts(await anext(follower)) == ["a"]
    waiting = asyncio.ensure_future(anext(follower))
    redis_server.kill()
    with pytest.raises(EphemeralDown):
        await waiting
    redis_server.start()
    await eventually(lambda: ephemeral.alive)
    await streams.append(batch(job, "b", begins=False))
    page = await anext(streams.follow(job, after=1))
    assert (page.gap, texts(page)) == (True, ["b"])
