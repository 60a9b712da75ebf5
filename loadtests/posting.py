"""A client that costs next to nothing: requests made before, answers hardly read.

What posts as fast as a gateway answers must not need more of the machine than it does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass
class Answers:
    """How long each answer took (seconds) and how many had which status."""

    took_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    def ms(self, part: float) -> float:
        """That part of the answers took at most so many milliseconds."""
        took = sorted(self.took_s)
        return round(1000 * took[min(int(len(took) * part), len(took) - 1)], 2)


def request(host: str, path: str, key: str, body: bytes, *more: str) -> bytes:
    """A POST of JSON, ready for the wire; `more` are header lines."""
    head = (
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *more,
    )
    return "\r\n".join((*head, "", "")).encode() + body


async def post(
    host: str, port: int, requests: Sequence[bytes], *, connections: int, within_s: float
) -> Answers:
    """Send all of them over so many connections, one at a time on each."""
    answers, left = Answers(), iter(requests)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within_s):
        lines = [
            (await loop.create_connection(lambda: _Line(left, answers), host, port))[1]
            for _ in range(connections)
        ]
        for line in lines:
            line.next()
        await asyncio.gather(*(line.done for line in lines))
    return answers


class _Line(asyncio.Protocol):
    """One connection: the next request once the answer before is whole."""

    def __init__(self, left: Iterator[bytes], answers: Answers) -> None:
        self._left = left
        self._answers = answers
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def next(self) -> None:
        assert self._transport is not None
        request = next(self._left, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(_END_OF_HEAD)
        if not found or len(body) < _length(head):
            return
        self._answers.took_s.append(time.perf_counter() - self._sent_at)
        status = int(head[9:12])
        self._answers.statuses[status] = self._answers.statuses.get(status, 0) + 1
        self._answers.bodies.append(body)
        self._read = b""
        self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed by the gateway"))


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.index(_LENGTH) + len(_LENGTH)
    return int(lowered[at:].split(b"\r\n", 1)[0])
