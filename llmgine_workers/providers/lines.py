"""How a request leaves: through an SDK's client, or beside it with what it would send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from multidict import CIMultiDict

CONNECT_S = 5.0
"""Seconds one address has to accept a connection."""
FIND_S = 10.0
"""Seconds for all of it: name, every address, TLS."""
KEEP_S = 120.0
"""Seconds an idle connection is kept, so that steady work never pays for TLS."""
CONNECTIONS = 10_000
"""As many as `worker.slots` may be: the slots are the bound, not the pool."""
MAX_ERROR = 1024**2
"""Bytes of an error's body that are read: they are words."""

_CHUNK = 16 * 1024


class Unsigned(Exception):
    """A request could not be given credentials, so it was not sent; says why."""


class Response(Protocol):
    """An answer whose head has come."""

    @property
    def status_code(self) -> int: ...  # noqa: D102

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body in pieces, as they come."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or up if the body was not read to its end."""
        ...


class Line(Protocol):
    """The way to one service."""

    async def post(
        self, path: str, content: bytes, headers: Mapping[str, str], idle_s: float | None
    ) -> Response:
        """Send it; `idle_s` bounds each silence of the answer (None: any).

        Raises an exception with the whole `response` for a status that is an error's.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class SdkLine:
    """Through the SDK's client, which signs each request or finds it a place."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def post(
        self, path: str, content: bytes, headers: Mapping[str, str], idle_s: float | None
    ) -> Response:
        """See `Line`."""
        sent: Response = await self._client.post(
            path,
            cast_to=httpx2.Response,
            content=content,
            options={"headers": dict(headers), "timeout": timeouts(idle_s)},
            stream=True,
        )
        return sent

    async def close(self) -> None:
        """See `Line`."""
        await self._client.close()


class DirectLine:
    """To the SDK's address, with its key and headers, straight over aiohttp.

    Where they are the same for every call, having the SDK put them together each time
    costs several times as much as sending them.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._base = str(client.base_url).rstrip("/")
        self._query = dict(client.default_query)
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, path: str, content: bytes, headers: Mapping[str, str], idle_s: float | None
    ) -> Response:
        """See `Line`."""
        if self._session is None:
            self._session = self._opened()
        response = _Direct(
            await self._session.post(
                self._base + path,
                params=self._query or None,
                data=content,
                headers=headers,
                allow_redirects=False,  # they would carry the key to any address
                timeout=aiohttp.ClientTimeout(
                    sock_connect=CONNECT_S, sock_read=idle_s, connect=FIND_S
                ),
            )
        )
        if not 200 <= response.status_code < 300:
            raise await _error(response)
        return response

    async def close(self) -> None:
        """See `Line`."""
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS,
                keepalive_timeout=KEEP_S,
                ssl=httpx2.create_ssl_context(),  # the SDKs' own certificates
            ),
            headers=_headers_of(self._client),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self._base),
        )


class _Direct:
    """aiohttp's answer, as the SDKs' own looks."""

    def __init__(self, found: aiohttp.ClientResponse) -> None:
        self._found = found
        self.status_code = found.status
        self.headers: Mapping[str, str] = found.headers
        self.content = b""

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self._found.content.iter_chunked(_CHUNK)

    async def aclose(self) -> None:
        self._found.release()


class _ErrorStatus(Exception):
    """The service answered with an error, which is read."""

    def __init__(self, response: _Direct) -> None:
        super().__init__(response.status_code)
        self.response = response


async def _error(response: _Direct) -> _ErrorStatus:
    try:
        async for chunk in response.aiter_bytes():
            response.content += chunk
            if len(response.content) > MAX_ERROR:
                break
    except (aiohttp.ClientError, OSError):
        pass  # its status says enough
    finally:
        await response.aclose()
    return _ErrorStatus(response)


def _headers_of(client: Any) -> CIMultiDict[str]:
    """What the client sends with every request; what is not text was left out by it."""
    found: CIMultiDict[Any] = CIMultiDict()
    for layer in (client.auth_headers, client.default_headers):
        for name, value in layer.items():
            found[name] = value
    # No compression: answers are small, and decompressing has no bound.
    found["Accept-Encoding"] = "identity"
    return CIMultiDict({k: v for k, v in found.items() if isinstance(v, str)})


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts, known = urlsplit(url), getproxies()
    if not known or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return known.get(parts.scheme) or known.get("all")


def timeouts(idle_s: float | None) -> httpx2.Timeout:
    """The transport's time-outs with so much silence allowed (None: any)."""
    return httpx2.Timeout(None, connect=CONNECT_S, pool=FIND_S, read=idle_s)
