"""Writes public facts to the jobs' streams: deltas gathered, order kept, loss counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.streams import LIVE_S, Batch, Entry, Streams
from llmgine_workers.events.facts import (
    Fact,
    JobFact,
    JobFinished,
    JobQueued,
    StepDelta,
    StreamSnapshot,
    public_fields,
)

GATHER_S = 0.025
"""Deltas of all jobs are written about so often: 40 times a second looks fluent."""
MAX_HELD = 20_000
"""Facts held in memory while Redis is slow; what comes then is dropped and counted."""
MAX_HELD_BYTES = 16 * 1024**2
MAX_CALL_ENTRIES = 500
MAX_CALL_BYTES = 1024**2
"""One Redis call carries no more than this (or a single larger fact)."""
MAX_STEPS = 10_000


@dataclass
class _Held:
    """A fact, or deltas of one step that follow each other."""

    fact: JobFact
    pieces: list[str] = field(default_factory=list)

    def takes(self, delta: StepDelta) -> bool:
        mine = self.fact
        return (
            isinstance(mine, StepDelta)
            and (mine.attempt, mine.fence) == (delta.attempt, delta.fence)
            and (
                (mine.text is not None and delta.text is not None)
                or (mine.reasoning is not None and delta.reasoning is not None)
            )
        )

    def entry(self) -> Entry:
        found = public_fields(self.fact)
        if self.pieces:
            kind = "text" if "text" in found else "reasoning"
            found[kind] = "".join((found[kind], *self.pieces))
        step, fence = found.get("step", ""), getattr(self.fact, "fence", None)
        return Entry(self.fact.type, _encode(found), step, fence or 0)


@dataclass
class _Round:
    """What the next write takes, and who waits for it."""

    held: dict[UUID, list[_Held]] = field(default_factory=dict)
    last_of_step: dict[tuple[UUID, str], _Held] = field(default_factory=dict)
    count: int = 0
    size: int = 0
    urgent: bool = False
    written: asyncio.Event = field(default_factory=asyncio.Event)


class StreamWriter:
    """The handler that feeds `Streams`.

    Deltas cost their caller nothing: the first of an attempt is written at once, the
    others about every 25 ms, joined per step. Any other fact is written, behind what
    is held of its job, before `handle` returns; all that waits goes in one call.
    While Redis is away facts are dropped and counted in `dropped`.
    """

    def __init__(self, streams: Streams, *, keep_s: float) -> None:
        self.dropped = 0
        self._streams = streams
        self._keep_s = int(keep_s)
        self._next = _Round()
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._streaming: dict[tuple[UUID, str], int] = {}

    def wants(self, kind: type[Fact]) -> bool:
        """Public facts; a snapshot is for one reader only."""
        return issubclass(kind, JobFact) and kind is not StreamSnapshot

    async def handle(self, facts: Sequence[Fact]) -> None:
        """See the class."""
        waits = False
        for fact in facts:
            if isinstance(fact, StepDelta):
                self._take_delta(fact)
            elif isinstance(fact, JobFact):
                self._take(fact)
                waits = True
        if waits:
            await self._write_now().wait()

    async def close(self) -> None:
        """Write what is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next.count:
            await self._write_now().wait()

    def _take(self, fact: JobFact) -> None:
        self._hold(fact)
        step = getattr(fact, "step", None)
        if step is not None:
            self._next.last_of_step.pop((fact.job, step), None)
            self._streaming.pop((fact.job, step), None)

    def _take_delta(self, delta: StepDelta) -> None:
        step = (delta.job, delta.step)
        last = self._next.last_of_step.get(step)
        if last is not None and last.takes(delta) and not self._is_full():
            piece = delta.text or delta.reasoning or ""
            last.pieces.append(piece)
            self._next.size += len(piece)
            return
        held = self._hold(delta)
        if held is not None:
            self._next.last_of_step[step] = held
        if self._streaming.get(step) != delta.attempt:
            self._note(step, delta.attempt)
            self._write_now()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(GATHER_S, self._write_now)

    def _hold(self, fact: JobFact) -> _Held | None:
        coming = self._next
        if self._is_full():
            self.dropped += 1
            return None
        held = _Held(fact)
        coming.held.setdefault(fact.job, []).append(held)
        coming.count += 1
        coming.size += len(getattr(fact, "text", None) or "")
        return held

    def _is_full(self) -> bool:
        return self._next.count >= MAX_HELD or self._next.size >= MAX_HELD_BYTES

    def _note(self, step: tuple[UUID, str], attempt: int) -> None:
        if len(self._streaming) >= MAX_STEPS:
            self._streaming.clear()  # steps that were lost without an end
        self._streaming[step] = attempt

    def _write_now(self) -> asyncio.Event:
        """Have all that is held written; answers what tells when it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        coming = self._next
        coming.urgent = True
        if self._writer is None or self._writer.done():
            # A task of its own: a cancelled step must not take others' facts with it.
            self._writer = asyncio.create_task(self._write())
        return coming.written

    async def _write(self) -> None:
        while self._next.urgent:
            taken, self._next = self._next, _Round()
            try:
                for batches in self._calls(taken):
                    await self._append(batches)
            finally:
                taken.written.set()

    async def _append(self, batches: list[Batch]) -> None:
        try:
            await self._streams.append(*batches)
        except EphemeralDown:
            self.dropped += sum(len(batch.entries) for batch in batches)

    def _calls(self, taken: _Round) -> Iterator[list[Batch]]:
        """The batches of each Redis call: a long one would hold up everyone's."""
        call: dict[UUID, tuple[Batch, list[Entry]]] = {}
        count = size = 0
        for job, all_held in taken.held.items():
            for held in all_held:
                entry = held.entry()
                count, size = count + 1, size + len(entry.body)
                if call and (count > MAX_CALL_ENTRIES or size > MAX_CALL_BYTES):
                    yield [batch for batch, _ in call.values()]
                    call, count, size = {}, 1, len(entry.body)
                if job not in call:
                    call[job] = self._batch(job, all_held)
                call[job][1].append(entry)
        if call:
            yield [batch for batch, _ in call.values()]

    def _batch(self, job: UUID, held: list[_Held]) -> tuple[Batch, list[Entry]]:
        entries: list[Entry] = []
        begins = isinstance(held[0].fact, JobQueued)
        ends = isinstance(held[-1].fact, JobFinished)
        return Batch(job, entries, begins, self._keep_s if ends else LIVE_S), entries


def _encode(found: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(found, default=str)
    except TypeError:
        # Half a surrogate pair, as some providers cut an emoji in two, or an integer
        # of more than 64 bits: pairs are joined, what is left becomes U+FFFD.
        text = json.dumps(found, ensure_ascii=False, default=str)
        return (
            text.encode("utf-16-le", "surrogatepass")
            .decode("utf-16-le", "replace")
            .encode()
        )
