"""A job's events in a Redis stream: numbered 1, 2, 3, resumable, bounded, losable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from llmgine_workers.ephemeral.broadcast import Broadcast
from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script

MAX_EVENTS = 10_000
"""Events kept per job; older ones are dropped and their readers get a snapshot."""
LIVE_S = 86_400
"""How long a stream of an unfinished job lives after its last event (seconds)."""
PAGE = 500
SILENCE_S = 5.0

# The stream's newest id is the counter, so numbers and events cannot part. A stream
# that is missing although its job has begun was lost (or expired): it goes on at the
# server's time in ms, above every number it can have had, so that any `after` of
# before is older than what is there and the reader asks for a snapshot.
# A step's highest fence is kept beside: what a worker says that has lost the step
# meanwhile is not written. What is written is broadcast to those who follow.
_APPEND = Script("""
local now = redis.call('TIME')
local at, lasts = 2, {}
for i = 1, #KEYS, 2 do
  local key, fences = KEYS[i], KEYS[i + 1]
  local begins, keep, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local seq = now[1] * 1000 + math.floor(now[2] / 1000)
  if newest then
    seq = tonumber(string.match(newest[1], '^%d+'))
  elseif begins == '1' then
    seq = 0
  end
  local told = {string.format('%.0f', seq + 1)}
  for _ = 1, count do
    local step, fence = ARGV[at + 2], tonumber(ARGV[at + 3])
    local highest = fence > 0 and tonumber(redis.call('HGET', fences, step) or 0) or 0
    if fence >= highest then
      if fence > highest then redis.call('HSET', fences, step, fence) end
      seq = seq + 1
      redis.call('XADD', key, 'MAXLEN', '~', ARGV[1], string.format('%.0f-0', seq),
        't', ARGV[at], 'b', ARGV[at + 1])
      table.insert(told, ARGV[at])
      table.insert(told, ARGV[at + 1])
    end
    at = at + 4
  end
  redis.call('EXPIRE', key, keep)
  redis.call('EXPIRE', fences, keep)
  if #told > 1 then redis.call('PUBLISH', key, table.concat(told, '\\n')) end
  lasts[#lasts + 1] = seq
end
return lasts
""")

_READ = Script("""
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return {'0-0', '0-0', {}} end
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+',
  'COUNT', ARGV[2])
return {oldest[1], newest[1], found}
""")


@dataclass(frozen=True, slots=True)
class Entry:
    """An event to be written: its type and its JSON object, without `type` and `seq`.

    With a `fence` it is dropped if its step has been heard of with a higher one. The
    body is one line.
    """

    type: str
    body: bytes
    step: str = ""
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one job. `begins` says that the first one is the job's very first."""

    job: UUID
    entries: Sequence[Entry]
    begins: bool = False
    keep_s: int = LIVE_S


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event as it was numbered."""

    seq: int
    type: str
    body: bytes

    @property
    def data(self) -> bytes:
        """The public JSON object, `type` and `seq` first."""
        rest = b"," + self.body[1:] if len(self.body) > 2 else b"}"
        return b'{"type":"%s","seq":%d%s' % (self.type.encode(), self.seq, rest)


@dataclass(frozen=True, slots=True)
class Page:
    """What was there after a number.

    `gap`: events between `after` and the first one here are gone, or the stream is:
    the reader needs a snapshot, numbered `snapshot_seq`, before these events.
    `last` is the number to go on after.
    """

    events: tuple[StreamEvent, ...]
    last: int
    gap: bool

    @property
    def snapshot_seq(self) -> int:
        """The number of a snapshot that stands for all that is missing."""
        return self.events[0].seq - 1 if self.events else self.last


class Streams:
    """The streams of all jobs."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral
        self._broadcast = Broadcast(ephemeral)

    async def append(self, *batches: Batch) -> list[int]:
        """Number and write the events of one or more jobs in one call.

        Answers each job's last number. Numbers of one job have no gaps, whoever
        appends at the same time. Raises EphemeralDown.
        """
        arguments: list[Argument] = [MAX_EVENTS]
        for batch in batches:
            arguments += (int(batch.begins), batch.keep_s, len(batch.entries))
            for entry in batch.entries:
                arguments += (entry.type, entry.body, entry.step, entry.fence)
        keys = [key for batch in batches for key in self._keys(batch.job)]
        lasts: list[int] = await self._ephemeral.run(_APPEND, keys, *arguments)
        return lasts

    async def read(self, job: UUID, after: int = 0, limit: int = PAGE) -> Page:
        """At most `limit` events after that number, at once. Raises EphemeralDown."""
        oldest, newest, found = await self._ephemeral.run(
            _READ, [self._key(job)], after, limit
        )
        events = _events(found)
        first, last = _seq(oldest), _seq(newest)
        if not events:
            return Page((), last, gap=after != last)
        return Page(events, events[-1].seq, gap=after + 1 < first)

    async def follow(
        self, job: UUID, after: int = 0, silence_s: float = SILENCE_S
    ) -> AsyncGenerator[Page, None]:
        """Pages as they come, for ever; an empty one after `silence_s` of silence.

        All followers of this process share one connection. What it brings continues
        what was read; where it does not (a message was lost, or this follower is too
        slow to have been waited for), the stream is read again, and what is no longer
        there either is a gap. The empty pages are the caller's chance to ping or to
        stop. Raises EphemeralDown when Redis goes away: begin anew with the last number.
        """
        async with self._broadcast.listening(self._key(job)) as heard:
            page = await self.read(job, after)
            while True:
                yield page
                after, heard_on = page.last, None
                if len(page.events) < PAGE:
                    heard_on = _continued(await heard.within(silence_s), after)
                page = heard_on or await self.read(job, after)

    async def expire(self, job: UUID, keep_s: float) -> None:
        """Forget the stream after that many seconds. Raises EphemeralDown."""
        for key in self._keys(job):
            await self._ephemeral.command("PEXPIRE", key, int(keep_s * 1000))

    async def close(self) -> None:
        """Stop listening."""
        await self._broadcast.close()

    def _key(self, job: UUID) -> str:
        return self._ephemeral.key("stream", str(job))

    def _keys(self, job: UUID) -> tuple[str, str]:
        return self._key(job), self._ephemeral.key("fences", str(job))


def _continued(messages: Sequence[bytes] | None, after: int) -> Page | None:
    """What was heard as a page; None if it does not go on right after that number."""
    if messages is None:
        return None
    events = tuple(
        event for message in messages for event in _heard(message) if event.seq > after
    )
    if not events:
        return Page((), after, gap=False)
    joined = events[0].seq == after + 1 and len(events) == events[-1].seq - after
    return Page(events, events[-1].seq, gap=False) if joined else None


def _heard(message: bytes) -> Iterator[StreamEvent]:
    first, *lines = message.split(b"\n")
    for n, (kind, body) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        yield StreamEvent(int(first) + n, kind.decode(), body)


def _events(found: Sequence[Any]) -> tuple[StreamEvent, ...]:
    return tuple(
        StreamEvent(_seq(number), fields[1].decode(), fields[3])
        for number, fields in found
    )


def _seq(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
