"""A job's events over a WebSocket: each text frame is one event's `data` object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.event_stream import Frame

ALL_TOLD = 1000
RESTARTING = 1012
TOO_SLOW = 1013
"""Close codes: behind the last event; the gateway stops; nothing was taken for long.
After the last two a reader comes back with the number of its last event."""
SEND_S = 30.0
"""A reader that takes nothing for so long is let go."""


async def relay(
    socket: WebSocket, source: AsyncGenerator[Frame, None], stopping: asyncio.Event
) -> None:
    """Send all frames, then close; ends early when the reader or the process does."""
    await socket.accept()
    sending = asyncio.ensure_future(_send(socket, source))
    others = [
        asyncio.ensure_future(_until_gone(socket)),
        asyncio.ensure_future(stopping.wait()),
    ]
    gone, stopped = others
    try:
        await asyncio.wait({sending, *others}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            code = sending.result()
        elif gone.done() or not stopped.done():
            return
        else:
            code = RESTARTING
    finally:
        for task in (sending, *others):
            task.cancel()
        await asyncio.gather(sending, *others, return_exceptions=True)
    await _close(socket, code)


async def _send(socket: WebSocket, source: AsyncGenerator[Frame, None]) -> int:
    async with aclosing(source):
        async for frame in source:
            try:
                async with asyncio.timeout(SEND_S):
                    await socket.send_text(frame.data.decode())
            except TimeoutError:
                return TOO_SLOW
    return ALL_TOLD


async def _until_gone(socket: WebSocket) -> None:
    """What a reader says is read and means nothing, but that it is there."""
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
    except (WebSocketDisconnect, RuntimeError):
        return


async def _close(socket: WebSocket, code: int) -> None:
    try:
        async with asyncio.timeout(1):
            await socket.close(code)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        return  # it went first, or reads nothing: the connection is dropped
