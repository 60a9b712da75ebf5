"""A job's events in a Redis stream: numbered 1, 2, 3, resumable, bounded, losable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script

MAX_EVENTS = 10_000
"""Events kept per job; older ones are dropped and their readers get a snapshot."""
LIVE_S = 86_400
"""How long a stream of an unfinished job lives after its last event (seconds)."""
PAGE = 500
BLOCK_S = 1.0

# The stream's newest id is the counter, so numbers and events cannot part. A stream
# that is missing although its job has begun was lost (or expired): it goes on at the
# server's time in ms, above every number it can have had, so that any `after` of
# before is older than what is there and the reader asks for a snapshot.
_APPEND = Script("""
local now = redis.call('TIME')
local at, lasts = 2, {}
for i, key in ipairs(KEYS) do
  local begins, keep, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local seq = now[1] * 1000 + math.floor(now[2] / 1000)
  if newest then
    seq = tonumber(string.match(newest[1], '^%d+'))
  elseif begins == '1' then
    seq = 0
  end
  for _ = 1, count do
    seq = seq + 1
    redis.call('XADD', key, 'MAXLEN', '~', ARGV[1], string.format('%.0f-0', seq),
      't', ARGV[at], 'b', ARGV[at + 1])
    at = at + 2
  end
  redis.call('EXPIRE', key, keep)
  lasts[i] = seq
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
    """An event to be written: its type and its JSON object, without `type` and `seq`."""

    type: str
    body: bytes


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

    async def append(self, *batches: Batch) -> list[int]:
        """Number and write the events of one or more jobs in one call.

        Answers each job's last number. Numbers of one job have no gaps, whoever
        appends at the same time. Raises EphemeralDown.
        """
        arguments: list[Argument] = [MAX_EVENTS]
        for batch in batches:
            arguments += (int(batch.begins), batch.keep_s, len(batch.entries))
            for entry in batch.entries:
                arguments += (entry.type, entry.body)
        keys = [self._key(batch.job) for batch in batches]
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
        self, job: UUID, after: int = 0, block_s: float = BLOCK_S
    ) -> AsyncIterator[Page]:
        """Pages as they come, for ever; an empty one after `block_s` of silence.

        The empty pages are the caller's chance to ping or to stop. Raises
        EphemeralDown when Redis goes away: begin anew with the last number.
        """
        page = await self.read(job, after)
        while True:
            yield page
            after = page.last
            page = await self._next(job, after, block_s)

    async def expire(self, job: UUID, keep_s: float) -> None:
        """Forget the stream after that many seconds. Raises EphemeralDown."""
        await self._ephemeral.command("PEXPIRE", self._key(job), int(keep_s * 1000))

    async def _next(self, job: UUID, after: int, block_s: float) -> Page:
        reply = await self._ephemeral.blocking(
            block_s,
            *("XREAD", "COUNT", PAGE, "BLOCK", int(block_s * 1000)),
            *("STREAMS", self._key(job), f"{after}-0"),
        )
        events = _events(reply[0][1]) if reply else ()
        if not events:
            return Page((), after, gap=False)
        return Page(events, events[-1].seq, gap=events[0].seq != after + 1)

    def _key(self, job: UUID) -> str:
        return self._ephemeral.key("stream", str(job))


def _events(found: Sequence[Any]) -> tuple[StreamEvent, ...]:
    return tuple(
        StreamEvent(_seq(number), fields[1].decode(), fields[3])
        for number, fields in found
    )


def _seq(stream_id: bytes) -> int:
    return int(stream_id.partition(b"-")[0])
