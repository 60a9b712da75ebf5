"""The gateway as an ASGI application, and as a process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any

import uvicorn
from fastapi import FastAPI

from gateway.auth import Keyring
from gateway.context import Gateway
from gateway.event_stream import PING_EVERY_S
from gateway.handlers import HANDLED, RequestIds, answer
from gateway.heads import MAX_HEAD_BYTES
from gateway.openapi import schema_of
from gateway.routes import (
    batches,
    chains,
    dead_letters,
    events,
    health,
    jobs,
    metrics,
    openai_chat,
    openai_embeddings,
    openai_models,
    pools,
    replays,
    steps,
    webhooks,
)
from llmgine_workers.errors import ConfigurationError
from llmgine_workers.ledger import schema
from llmgine_workers.runtime import Runtime, open_runtime
from llmgine_workers.settings import Settings

MAX_SAID_BYTES = 4096
"""Of a message that a WebSocket's client sends: it has nothing to tell."""
GRACE_S = 10
"""How long SIGTERM lets open requests go on; waits and streams end at once."""

_NOUNS = (
    jobs, batches, steps, events, webhooks, dead_letters, replays, chains, pools,
    openai_chat, openai_embeddings, openai_models, health, metrics,
)  # fmt: skip
Opener = Callable[[Settings, Mapping[str, str]], AbstractAsyncContextManager[Runtime]]


def create_app(
    settings: Settings, environ: Mapping[str, str], opener: Opener = open_runtime
) -> FastAPI:
    """The application; its lifespan opens and closes the runtime."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opener(settings, environ) as rt:
            app.state.gateway = Gateway(rt, Keyring(rt.ledger))
            yield

    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys(HANDLED, answer),
        telemetry={"operation_spans": False, "logs": False, "auto_configure": False},
    )
    for noun in _NOUNS:
        app.include_router(noun.router)
    app.add_middleware(RequestIds)
    app.openapi = schema_of(app)  # type: ignore[method-assign]
    return app


def serve(settings: Settings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT; returns after a clean stop.

    ConfigurationError if the address cannot be listened on. Main thread only.
    """
    app = create_app(settings, environ)
    config = uvicorn.Config(
        app,
        http=_protocol(),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        log_level="warning",  # uvicorn's line on a WebSocket would tell its token
        ws_ping_interval=PING_EVERY_S,
        ws_max_size=MAX_SAID_BYTES,
        ws_per_message_deflate=False,
    )
    with (
        _listening(settings.gateway.listen) as listener,
        asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
    ):
        runner.run(_serve(app, config, listener))


def _protocol() -> Any:
    """httptools with a bound of ours, or h11, which has one."""
    if find_spec("httptools") is None:
        return "h11"
    from gateway.bounded_heads import BoundedHeads

    return BoundedHeads


async def _serve(app: FastAPI, config: uvicorn.Config, listener: socket.socket) -> None:
    # Opened here and not by uvicorn, which would turn every error into exit status 3.
    async with app.router.lifespan_context(app):
        await schema.verify_if_there(app.state.gateway.rt.ledger)
        # uvicorn raises a caught signal again once it has stopped; then all is done.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        await _Server(config, app).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends waits and event streams before it waits for open requests."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.gateway.stopping.set()
        await super().shutdown(sockets)


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=2048)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"gateway.listen = {address!r}: {error}") from None
