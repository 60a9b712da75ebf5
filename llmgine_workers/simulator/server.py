"""The simulated provider as a server: its routes, its start and its stop."""

import socket
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from llmgine_workers.simulator.admin import add_admin_routes
from llmgine_workers.simulator.anthropic_wire import AnthropicWire
from llmgine_workers.simulator.call_log import CallLog, CallRecord
from llmgine_workers.simulator.config import SimulatorConfig
from llmgine_workers.simulator.faults import FaultBook, FaultRule
from llmgine_workers.simulator.handler import CallHandler
from llmgine_workers.simulator.openai_wire import OpenAIWire

# A burst of new connections must not wait for the kernel's SYN retry of a second.
_BACKLOG = 4096
_MAX_BODY = 64 * 1024 * 1024
# aiohttp reads 0 as "wait for ever"; whoever stops a simulator wants it stopped.
_SHUTDOWN_S = 0.05
_DEFAULT_MODELS = (
    "gpt-5",
    "gpt-5-mini",
    "text-embedding-3-small",
    "claude-haiku-5",
    "claude-sonnet-5",
)


class Simulator:
    """One simulated provider on one port; also an async context manager.

    `faults` takes rules at any time; `calls` is what it has seen so far.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.faults = FaultBook(self.config.seed, self.config.fault_rates)
        self.url = ""
        self._log: CallLog | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the log and listen; `url` is set afterwards. OSError if it cannot."""
        listener = socket.create_server(
            (self.config.host, self.config.port), backlog=_BACKLOG
        )
        try:
            self._log = CallLog(self.config.log)
        except OSError:
            listener.close()
            raise
        self._runner = web.AppRunner(
            self._application(self._log),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=_BACKLOG).start()
        host, port = listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening; open calls end as `cut`. The calls stay readable."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._log is not None:
            self._log.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def calls(self) -> list[CallRecord]:
        """Every call since the start, in order of arrival; open ones have no `ended`."""
        return self._log.records if self._log is not None else []

    def summary(self) -> dict[str, Any]:
        """Counts over all calls, as `GET /_sim/summary` answers them."""
        return self._log.summary() if self._log is not None else {}

    def add_fault(self, rule: FaultRule) -> FaultRule:
        """Put a fault in force from now on, as `POST /_sim/faults` does."""
        return self.faults.add(rule)

    def _application(self, log: CallLog) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY)
        openai = CallHandler(OpenAIWire(), self.config, self.faults, log)
        anthropic = CallHandler(AnthropicWire(), self.config, self.faults, log)
        app.router.add_post("/v1/chat/completions", openai.chat)
        app.router.add_post("/v1/embeddings", openai.embeddings)
        app.router.add_post("/v1/messages", anthropic.chat)
        app.router.add_get("/v1/models", self._models)
        add_admin_routes(app, self.faults, log)
        return app

    async def _models(self, request: web.Request) -> web.StreamResponse:
        # Both services have this path; only one of them asks for this header.
        named = "anthropic-version" in request.headers
        wire = AnthropicWire() if named else OpenAIWire()
        body = wire.models(self.config.models or _DEFAULT_MODELS)
        return web.Response(body=body, content_type="application/json")
