"""uvicorn on httptools takes heads and trailers of any size; here they are bounded."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import MEDIA_TYPE, respond
from gateway.heads import MAX_HEAD_BYTES, too_large
from llmgine_workers import clock

ONE_READ = 256 * 1024
"""A head may share its last read with a body; uvloop reads no more at a time."""


class BoundedHeads(HttpToolsProtocol):
    """Closes a connection that says too much which is neither a body nor its end."""

    _bytes = 0

    def data_received(self, data: bytes) -> None:
        """Count what is read; the parser below says what of it was good for something."""
        self._bytes += len(data)
        if self._bytes > MAX_HEAD_BYTES + ONE_READ:
            self._refuse()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A part of a body: whoever reads it bounds it."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._bytes = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_refusal())
        self.transport.close()


def _refusal() -> bytes:
    request_id = str(clock.uuid7())
    body = bytes(respond(too_large(), request_id).body)
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body
