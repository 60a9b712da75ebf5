"""How one answer travels: at its pace, whole or in chunks, or spoiled by a fault.

Every way out sets `ended` once the last byte is written, so that whatever interrupts it
(the client leaving cancels the handler) is seen as `cut`.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from aiohttp import web

from llmgine_workers.simulator.call_log import CallRecord
from llmgine_workers.simulator.faults import STATUS_OF, FaultRule
from llmgine_workers.simulator.wire import Frames, Refusal, Wire

# SO_LINGER switched on with 0 seconds: closing sends RST and drops what is unsent.
_LINGER_RST = struct.pack("ii", 1, 0)
_HTML = b"<html><body><h1>It works!</h1><p>A proxy answered instead.</p></body></html>"
_BROKEN_EVENT = b'event: message\ndata: {"id": "broken", "choices": [{"del\n\n'
_EVENT_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Pace:
    """When bytes leave, in seconds after the arrival: `first`, then one every `gap`.

    A plain answer leaves whole at `last`.
    """

    first: float = 0.0
    gap: float = 0.0
    last: float = 0.0


@dataclass(slots=True)
class Delivery:
    """One answer on its way. `body` is bytes for a plain answer, frames for a stream."""

    request: web.Request
    wire: Wire
    record: CallRecord
    headers: dict[str, str]
    arrived: float
    body: bytes | Frames = b""
    pace: Pace = Pace()
    ended: str = "cut"

    async def answer(self, fault: FaultRule | None) -> web.StreamResponse:
        """Send the answer, or what the fault makes of it."""
        if fault is None:
            return await self._complete()
        self.record.fault = fault.kind
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.kind in STATUS_OF:
            return await self.refuse(_refusal(fault))
        return await _TRANSPORT_FAULTS[fault.kind](self)

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """Send an error in the service's own shape."""
        if refusal.retry_after is not None:
            self.headers |= self.wire.retry_headers(refusal.retry_after)
        body = self.wire.error(refusal, self.record.request_id)
        response = await self._send(STATUS_OF[refusal.kind], body, _JSON)
        self.ended = "refused"
        return response

    async def _complete(self) -> web.StreamResponse:
        if isinstance(self.body, Frames):
            response = await self._stream(self.body.content, self.body.closing)
        else:
            await self._until(self.pace.last)
            response = await self._send(200, self.body, _JSON)
        self.ended = "completed"
        return response

    async def _stream(self, content: list[bytes], closing: bytes) -> web.StreamResponse:
        """Open a stream, send `content` at its pace, and end it properly."""
        response, rest = await self._open_stream(content)
        await response.write_eof(rest + closing)
        self.record.chunks_sent = len(content)
        return response

    async def _open_stream(
        self, content: list[bytes]
    ) -> tuple[web.StreamResponse, bytes]:
        """Send all but the last part; answer it, so it can leave with what follows it."""
        assert isinstance(self.body, Frames)  # noqa: S101  only streams come here
        await self._until(self.pace.first)
        response = await self._start(200, _EVENT_STREAM)
        if not self.pace.gap or not content:
            return response, b"".join((self.body.opening, *content))
        waiting = self.body.opening
        for number, part in enumerate(content):
            await self._until(self.pace.first + number * self.pace.gap)
            waiting += part
            if number < len(content) - 1:
                await response.write(waiting)
                self.record.chunks_sent = number + 1
                waiting = b""
        return response, waiting

    async def _send(self, status: int, body: bytes, kind: str) -> web.StreamResponse:
        response = await self._start(status, kind, len(body))
        await response.write_eof(body)
        return response

    async def _start(
        self, status: int, kind: str, length: int | None = None
    ) -> web.StreamResponse:
        headers = {**self.headers, "Content-Type": kind}
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = length
        await response.prepare(self.request)
        self.record.sent_first_byte(status)
        return response

    async def _until(self, moment: float) -> None:
        wait = self.arrived + moment - asyncio.get_running_loop().time()
        if wait > 0:
            await asyncio.sleep(wait)

    async def reset(self) -> web.StreamResponse:
        """RST before any byte."""
        transport = self.request.transport
        if transport is not None:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
            transport.abort()
        return web.Response()

    async def cut(self) -> web.StreamResponse:
        """Half of the body, then the connection is gone."""
        if isinstance(self.body, Frames):
            half = self._half(self.body)
            response, rest = await self._open_stream(half)
            await response.write(rest)
            self.record.chunks_sent = len(half)
        else:
            await self._until(self.pace.last)
            response = await self._start(200, _JSON, len(self.body))
            await response.write(self.body[: len(self.body) // 2])
        if self.request.transport is not None:
            self.request.transport.close()
        return response

    async def truncated(self) -> web.StreamResponse:
        """Half of the body, ended as if it were all."""
        if isinstance(self.body, Frames):
            return await self._stream(self._half(self.body), b"")
        await self._until(self.pace.last)
        return await self._send(200, self.body[: len(self.body) // 2], _JSON)

    async def hang(self) -> NoReturn:
        """Nothing, until the client leaves and this is cancelled."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody completes that future")

    async def garbage(self) -> web.StreamResponse:
        """200 and not the format."""
        if isinstance(self.body, Frames):
            await self._until(self.pace.first)
            return await self._send(200, _BROKEN_EVENT, _EVENT_STREAM)
        await self._until(self.pace.last)
        return await self._send(200, _HTML, "text/html; charset=utf-8")

    async def empty(self) -> web.StreamResponse:
        """200 without a body."""
        await self._until(self.pace.last)
        return await self._send(200, b"", self._kind())

    async def error_in_stream(self) -> web.StreamResponse:
        """Half of a stream, then an error event; a plain call gets a 500."""
        if not isinstance(self.body, Frames):
            return await self.refuse(Refusal("500"))
        event = self.wire.stream_error(Refusal("529"), self.record.request_id)
        return await self._stream(self._half(self.body), event)

    async def slow(self) -> web.StreamResponse:
        """All of it; the delay has already passed."""
        return await self._complete()

    def _kind(self) -> str:
        return _EVENT_STREAM if isinstance(self.body, Frames) else _JSON

    def _half(self, frames: Frames) -> list[bytes]:
        return frames.content[: (len(frames.content) + 1) // 2]


def _refusal(fault: FaultRule) -> Refusal:
    limited = fault.kind == "429"
    return Refusal(fault.kind, retry_after=fault.retry_after if limited else None)


_TRANSPORT_FAULTS: dict[str, Callable[[Delivery], Awaitable[web.StreamResponse]]] = {
    "reset": Delivery.reset,
    "cut": Delivery.cut,
    "truncated": Delivery.truncated,
    "hang": Delivery.hang,
    "garbage": Delivery.garbage,
    "empty": Delivery.empty,
    "error_in_stream": Delivery.error_in_stream,
    "slow": Delivery.slow,
}
