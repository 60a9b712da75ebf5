"""What reaches the stream: every fact in order, deltas gathered, no job held up."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.clock import uuid7
from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown
from llmgine_workers.ephemeral.streams import LIVE_S, Batch, Streams
from llmgine_workers.events import stream as stream_module
from llmgine_workers.events.facts import (
    JobFinished,
    JobQueued,
    JobReplayed,
    StepDelta,
    StepFinished,
    StepReleased,
    StepStarted,
    StreamSnapshot,
)
from llmgine_workers.events.stream import StreamWriter
from tests.ephemeral.conftest import ephemeral, eventually, new_ephemeral

__all__ = ["ephemeral", "new_ephemeral"]


class FakeStreams(Streams):
    """Keeps what is appended; `away` and `slow` make it a Redis in trouble."""

    def __init__(self) -> None:
        self.calls: list[tuple[Batch, ...]] = []
        self.away = False
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def append(self, *batches: Batch) -> list[int]:
        await self.go_on.wait()
        if self.away:
            raise EphemeralDown("away")
        self.calls.append(batches)
        return [0] * len(batches)

    def of(self, job: UUID) -> list[dict[str, Any]]:
        return [
            {"type": entry.type, **json.loads(entry.body)}
            for call in self.calls
            for batch in call
            for entry in batch.entries
            if batch.job == job
        ]

    def texts(self, job: UUID) -> list[str]:
        return [event.get("text") or event["type"] for event in self.of(job)]


@pytest.fixture
async def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
async def writer(streams: FakeStreams) -> StreamWriter:
    return StreamWriter(streams, keep_s=900)


@pytest.fixture
def job() -> UUID:
    return uuid7()


def delta(job: UUID, text: str, step: str = "draft", attempt: int = 1) -> StepDelta:
    return StepDelta(job, step, attempt, text=text)


def finished(job: UUID, step: str = "draft") -> StepFinished:
    return StepFinished(job, step, "succeeded")


def test_it_wants_public_facts_and_no_snapshots() -> None:
    writer = StreamWriter(FakeStreams.__new__(FakeStreams), keep_s=1)
    assert writer.wants(StepDelta)
    assert writer.wants(JobFinished)
    assert not writer.wants(StepReleased)
    assert not writer.wants(StreamSnapshot)


async def test_a_fact_is_written_when_handle_returns(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    await writer.handle([StepStarted(job, "draft", 1, "openai/m"), finished(job)])
    assert streams.texts(job) == ["step.started", "step.finished"]
    assert len(streams.calls) == 1


async def test_the_first_delta_goes_at_once_and_the_next_are_gathered(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    await writer.handle([delta(job, "Pri")])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert streams.texts(job) == ["Pri"]
    for text in ("ces ", "ro", "se"):
        await writer.handle([delta(job, text)])
    assert streams.texts(job) == ["Pri"]
    await eventually(lambda: streams.texts(job) == ["Pri", "ces rose"], within_s=1)


async def test_deltas_of_different_kinds_attempts_and_steps_are_not_mixed(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    thought = StepDelta(job, "draft", 1, reasoning="hm")
    call = StepDelta(job, "draft", 1, tool_call={"index": 0})
    for one in (
        *(delta(job, "a"), delta(job, "x", "other"), delta(job, "b"), thought, thought),
        *(call, call, delta(job, "c"), delta(job, "d"), delta(job, "e", attempt=2)),
    ):
        await writer.handle([one])
    await writer.close()
    mine = [event for event in streams.of(job) if event["step"] == "draft"]
    said = [e.get("text") or e.get("reasoning") or str(e.get("tool_call")) for e in mine]
    assert said == ["ab", "hmhm", "{'index': 0}", "{'index': 0}", "cd", "e"]
    assert [event["attempt"] for event in mine] == [1, 1, 1, 1, 1, 2]


async def test_deltas_come_before_the_fact_that_ends_their_step(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    for text in "abc":
        await writer.handle([delta(job, text)])
    await writer.handle([finished(job)])
    assert "".join(streams.texts(job)) == "abcstep.finished"


async def test_a_long_stream_of_many_steps_keeps_all_its_text_in_order(
    writer: StreamWriter, streams: FakeStreams
) -> None:
    jobs = [uuid7() for _ in range(20)]

    async def speak(job: UUID) -> None:
        for n in range(50):
            await writer.handle([delta(job, f"{n},")])
            if n % 10 == 0:
                await asyncio.sleep(0.002)
        await writer.handle([finished(job), JobFinished(job, "succeeded")])

    await asyncio.gather(*(speak(job) for job in jobs))
    for job in jobs:
        text = "".join(streams.texts(job))
        wanted = "".join(f"{n}," for n in range(50))
        assert text == wanted + "step.finishedjob.finished"
    assert len(streams.calls) < 100  # 1,040 facts were gathered


async def test_facts_that_wait_for_a_slow_redis_go_together(
    writer: StreamWriter, streams: FakeStreams
) -> None:
    streams.go_on.clear()
    jobs = [uuid7() for _ in range(100)]
    writes = [asyncio.create_task(writer.handle([finished(job)])) for job in jobs]
    await asyncio.sleep(0.01)
    streams.go_on.set()
    await asyncio.gather(*writes)
    assert len(streams.calls) <= 2
    assert all(streams.texts(job) == ["step.finished"] for job in jobs)


async def test_deltas_never_wait_for_redis(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    streams.go_on.clear()
    async with asyncio.timeout(1):
        for _ in range(1000):
            await writer.handle([delta(job, "x")])
    streams.go_on.set()
    await writer.close()
    assert sum(len(text) for text in streams.texts(job)) == 1000


async def test_a_cancelled_step_takes_nobodys_facts_with_it(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    streams.go_on.clear()
    first = asyncio.create_task(writer.handle([finished(job)]))
    await asyncio.sleep(0)
    other = uuid7()
    second = asyncio.create_task(writer.handle([finished(other)]))
    await asyncio.sleep(0)
    first.cancel()
    streams.go_on.set()
    await second
    assert streams.texts(job) == streams.texts(other) == ["step.finished"]


async def test_without_redis_facts_are_dropped_counted_and_harm_nobody(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    streams.away = True
    await writer.handle([delta(job, "lost")])
    await writer.handle([finished(job)])
    assert writer.dropped == 2
    streams.away = False
    await writer.handle([finished(job)])
    assert streams.texts(job) == ["step.finished"]


async def test_what_is_held_is_bounded(
    writer: StreamWriter,
    streams: FakeStreams,
    job: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "MAX_HELD", 10)
    monkeypatch.setattr(stream_module, "MAX_HELD_BYTES", 1000)
    streams.go_on.clear()
    await writer.handle([delta(job, "first")])
    await asyncio.sleep(0)
    for n in range(50):
        await writer.handle([delta(job, "x", step=f"s{n}")])
    for _ in range(50):
        await writer.handle([delta(job, "y" * 100, step="s0")])
    assert writer.dropped >= 40 + 30
    streams.go_on.set()
    await writer.close()
    assert sum(len(text) for text in streams.texts(job)) <= 5 + 10 + 1100


async def test_one_redis_call_is_bounded(
    writer: StreamWriter, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_CALL_ENTRIES", 10)
    monkeypatch.setattr(stream_module, "MAX_CALL_BYTES", 2000)
    jobs = [uuid7() for _ in range(7)]
    facts = [StepFinished(j, f"s{n}", "ok") for j in jobs for n in range(7)]
    large = StepFinished(jobs[0], "large", "ok", text="z" * 5000)
    await writer.handle([*facts, large])
    for call in streams.calls:
        entries = [entry for batch in call for entry in batch.entries]
        size = sum(len(entry.body) for entry in entries)
        assert len(entries) <= 10
        assert size <= 2000 or len(entries) == 1
    steps = [event["step"] for event in streams.of(jobs[0])]
    assert steps == [*(f"s{n}" for n in range(7)), "large"]
    assert sum(len(streams.of(job)) for job in jobs) == 50


async def test_a_stream_begins_with_its_job_and_ends_some_time_after_it(
    writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    await writer.handle([JobQueued(job, {"name": "c"}, {})])
    await writer.handle([finished(job), JobFinished(job, "failed")])
    await writer.handle([JobReplayed(job, "draft", uuid7())])
    batches = [batch for call in streams.calls for batch in call]
    assert [batch.begins for batch in batches] == [True, False, False]
    assert [batch.keep_s for batch in batches] == [LIVE_S, 900, LIVE_S]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud800b", "a\ufffdb"),
        ("\x00\u2028", "\x00\u2028"),
    ],
)
async def test_any_text_a_provider_sends_can_be_written(
    text: str, read: str, writer: StreamWriter, streams: FakeStreams, job: UUID
) -> None:
    await writer.handle([delta(job, text), finished(job)])
    assert streams.texts(job) == [read, "step.finished"]


@pytest.mark.integration
async def test_the_stream_of_a_job_can_be_read_as_the_interface_has_it(
    ephemeral: Ephemeral,
    job: UUID,
) -> None:
    streams = Streams(ephemeral)
    writer = StreamWriter(streams, keep_s=900)
    await writer.handle([JobQueued(job, {"name": "c", "version": "v"}, {"order": 1})])
    for text in ("Prices", " rose"):
        await writer.handle([delta(job, text)])
    await writer.handle([finished(job), JobFinished(job, "succeeded")])
    page = await streams.read(job)
    events = [json.loads(event.data) for event in page.events]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert not page.gap
    text = "".join(e["text"] for e in events if e["type"] == "step.delta")
    assert text == "Prices rose"
    assert events[0]["type"] == "job.queued"
    assert [e["type"] for e in events[-2:]] == ["step.finished", "job.finished"]
    assert all(event["job"] == str(job) for event in events)
