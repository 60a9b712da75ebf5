"""The gateway over HTTP: where it is, which key to send, what a refusal means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from llmgine_workers.cli import state
from llmgine_workers.cli.exits import Exit, exit_of, exit_of_http
from llmgine_workers.errors import ConfigurationError, LlmgineError

DEFAULT_URL = "http://127.0.0.1:8080"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_TRIES = 4
_TIMEOUT = httpx2.Timeout(10, read=90)  # a `wait` is answered after 60 s at most


class GatewayUnreachable(LlmgineError):
    """Nobody answers at that address."""

    code = "gateway_unreachable"


class Refused(LlmgineError):
    """The gateway's answer was an error; `problem` is its document."""

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


class Api:
    """Calls of the HTTP interface; Refused or GatewayUnreachable if they fail."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **params: Any) -> Any:
        """The answer of a GET."""
        return await self._call("GET", path, params=params)

    async def post(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        """The answer of a POST that may safely be repeated (Idempotency-Key)."""
        return await self._call("POST", path, json=body, headers=dict(headers))

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        for attempt in range(_TRIES):
            try:
                response = await self.client.request(method, path, **options)
            except httpx2.TransportError as error:
                if attempt + 1 == _TRIES:
                    raise unreachable(self.client, error) from None
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                return answer_of(response)
        raise AssertionError("unreachable: the last try returns or raises")


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Api]:
    """An open connection to the gateway."""
    headers = {"Authorization": f"Bearer {access.key}"} if access.key else {}
    async with httpx2.AsyncClient(
        base_url=access.url,
        headers=headers,
        timeout=_TIMEOUT,
        trust_env=not is_local(access.url),  # a proxy would not find this machine
    ) as client:
        yield Api(client)


def is_local(url: str) -> bool:
    """Whether the address is this machine's own. ConfigurationError if it is none."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"LLMGINE_URL {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigurationError(f"LLMGINE_URL {url!r} is not http://host:port")
    return parts.host in _LOOPBACK


def answer_of(response: httpx2.Response) -> Any:
    """The JSON of a success; Refused for anything else."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_success:
        return body
    raise Refused(response.status_code, body if isinstance(body, dict) else {})


def unreachable(client: httpx2.AsyncClient, error: Exception) -> GatewayUnreachable:
    """Says where nobody answered, and what to do."""
    reason = str(error) or type(error).__name__
    return GatewayUnreachable(
        f"no gateway answers at {client.base_url}: {reason} "
        "(start one with llmgine up, or set LLMGINE_URL)"
    )
