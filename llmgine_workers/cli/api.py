"""The gateway: where it is, which key to send, and what its refusals mean here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from llmgine_workers import client
from llmgine_workers.cli import state
from llmgine_workers.cli.exits import Exit, exit_of, exit_of_http
from llmgine_workers.client import AsyncClient
from llmgine_workers.client.connection import DEFAULT_URL
from llmgine_workers.errors import ConfigurationError, LlmgineError

CALL_S = 2.0
"""How long a command tries a gateway that does not answer."""
STREAM_S = 120.0
"""How long a gateway that has answered before may be away."""
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class GatewayUnreachable(LlmgineError):
    """Nobody answers at that address."""

    code = "gateway_unreachable"


class Refused(LlmgineError):
    """The gateway's answer was an error; `problem` is its document, or what it had."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        code = problem.get("code")
        title = problem.get("title") or f"the gateway answered {status}"
        super().__init__(str(problem.get("detail") or title), code or f"http_{status}")
        self.status = status
        self.problem = problem

    @property
    def exit(self) -> Exit:
        """The exit status it means."""
        named = self.problem.get("code")
        return exit_of(named) if named else exit_of_http(self.status)


@dataclass(frozen=True)
class Access:
    """Address and key of a gateway."""

    url: str
    key: str | None

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> Access:
        """From the environment, else what `up` wrote here.

        The key that was found goes to this machine only, never to a foreign address.
        """
        url = environ.get("LLMGINE_URL") or state.written(state.URL) or DEFAULT_URL
        key = environ.get("LLMGINE_API_KEY")
        if not key and is_local(url):
            key = state.written(state.KEY)
        return cls(url.rstrip("/"), key)


@dataclass(frozen=True)
class Api:
    """The Python client twice: `calls` give up soon, `streams` outlive a restart."""

    calls: AsyncClient
    streams: AsyncClient


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Api]:
    """The gateway; Refused or GatewayUnreachable for what the client raises inside."""
    with _as_ours(access):
        async with (
            AsyncClient(access.url, access.key, retry_s=CALL_S) as calls,
            AsyncClient(access.url, access.key, retry_s=STREAM_S) as streams,
        ):
            yield Api(calls, streams)


def is_local(url: str) -> bool:
    """Whether the address is this machine's own. ConfigurationError if it is none."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"LLMGINE_URL {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigurationError(f"LLMGINE_URL {url!r} is not http://host:port")
    return parts.host in _LOOPBACK


@contextmanager
def _as_ours(access: Access) -> Iterator[None]:
    if access.key and not (access.key.isascii() and access.key.isprintable()):
        raise ConfigurationError("LLMGINE_API_KEY is not printable ASCII")
    try:
        yield
    except client.Refused as refused:
        raise Refused(refused.status, problem_of(refused)) from None
    except client.Unavailable as trouble:
        if trouble.status is None:
            raise GatewayUnreachable(
                f"no gateway answers at {access.url}: {trouble.__cause__ or trouble} "
                "(start one with llmgine up, or set LLMGINE_URL)"
            ) from None
        raise Refused(trouble.status, problem_of(trouble)) from None
    except client.BadAnswer as answer:
        raise LlmgineError(f"{access.url}: {answer}", "bad_answer") from None


def problem_of(error: client.Refused | client.Unavailable) -> dict[str, Any]:
    """The gateway's document, as far as the client has read it."""
    known = error.code if not str(error.code).startswith("http_") else None
    found = {"code": known, "request_id": error.request_id}
    if isinstance(error, client.Refused):
        found["detail"] = error.detail
        return {**found, "errors": [one.document() for one in error.findings]}
    return {**found, "detail": str(error)}
