"""Whatever is raised while a request is handled becomes a problem of the one table."""

from __future__ import annotations

import logging
import time
from typing import cast

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import errors, heads
from gateway.errors import PROBLEMS, Problem, ledger_down, not_found
from gateway.findings import findings_of
from gateway.front import envelope
from llmgine_workers import clock
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger.connection import LedgerDown

HANDLED = (
    Problem, Refusal, LedgerDown, RequestValidationError, WebSocketRequestValidationError,
    HTTPException,
)  # fmt: skip

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_log = logging.getLogger(__name__)


async def answer(request: Request, error: Exception) -> Response:
    """The handler of all of `HANDLED`."""
    problem = _problem(request, error)
    return respond(request.url.path, problem, request.state.request_id)


def respond(path: str, problem: Problem, request_id: str) -> Response:
    """The problem in the format of whoever speaks to that address."""
    if envelope.is_theirs(path):
        return envelope.respond(problem)
    return errors.respond(problem, request_id)


def refusal_problem(refusal: Refusal) -> Problem:
    """What a room below refused, as the gateway says it."""
    code = refusal.code if refusal.code in PROBLEMS else "invalid_input"
    return Problem(code, str(refusal), refusal.findings)


class RequestIds:
    """ASGI: gives each request its id, and a defect of ours a problem, never a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer for it if the application does not."""
        if scope["type"] == "http":
            await self._requested(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._upgraded(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _requested(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_at = time.perf_counter()
        request_id = str(clock.uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def named(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _measure(scope, message["status"], time.perf_counter() - began_at)
                header = (b"x-request-id", request_id.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        if (refused := heads.refusal(scope)) is not None:
            await respond(scope["path"], refused, request_id)(scope, receive, named)
            return
        try:
            await self._app(scope, receive, named)
        except ClientDisconnect:
            return
        except Exception:  # a defect: the client gets an id, the log gets the trace
            _log.exception("request %s failed", request_id)
            if not begun:
                problem = Problem("internal", f"see the gateway's log for {request_id}")
                await respond(scope["path"], problem, request_id)(scope, receive, named)

    async def _upgraded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: a refusal is answered before the upgrade, as to any request."""
        request_id = str(clock.uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        if (refused := heads.refusal(scope)) is not None:
            await respond(scope["path"], refused, request_id)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _measure(scope: Scope, status: int, seconds: float) -> None:
    """Until the answer began: a stream or a wait may go on for long after it."""
    route = getattr(scope.get("route"), "path", "none")
    metrics = scope["app"].state.gateway.rt.metrics
    metrics.request(scope["method"], route, status, seconds)


def _problem(request: Request, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        return refusal_problem(error)
    if isinstance(error, LedgerDown):
        return ledger_down()
    if isinstance(error, (RequestValidationError, WebSocketRequestValidationError)):
        return Problem.of(findings_of(error.errors()))
    return _http_problem(request, cast("HTTPException", error))


def _http_problem(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        return not_found()
    if error.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        detail = f"{request.method} is not for this path, only {allowed}"
        return Problem("method_not_allowed", detail, headers={"Allow": allowed})
    _log.error("unforeseen HTTP error %s: %s", error.status_code, error.detail)
    return Problem("internal", "the gateway could not handle the request")


def _allowed_methods(request: Request) -> list[str]:
    """Those of all routes of a path: Starlette names only the first one's."""
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in routes
        )
    ]
