"""Which gateway, with which key, and how its connections are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TypedDict

import httpx2

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECTIONS = 100
"""For calls that are answered at once. With 1,000 of them 3,000 gathered submits took
three times as long (13.7 s, not 4.1): the pool looks through all it has each time."""
RETRY_S = 30.0
"""How long a call bears with a gateway that is away, unless told otherwise."""

_IDLE_S = 4.0  # uvicorn closes after 5 s; a request must not cross with that
QUICK = httpx2.Limits(max_connections=CONNECTIONS, keepalive_expiry=_IDLE_S)
HELD = httpx2.Limits(max_keepalive_connections=20, keepalive_expiry=_IDLE_S)
"""Waits and streams keep a connection for long, so they have as many as they need, and
cannot keep a quick call from its turn."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(TypedDict):
    """The arguments that both kinds of httpx2 client are made with."""

    base_url: str
    headers: dict[str, str]
    limits: httpx2.Limits
    trust_env: bool


@dataclass(frozen=True)
class Gateway:
    """An address and a key."""

    url: str
    key: str | None = field(repr=False)

    @classmethod
    def given(cls, url: str | None, api_key: str | None) -> Gateway:
        """From the arguments; from the environment only if there are none.

        So a key of the environment never goes to an address that is not its own.
        ValueError for what is no address or no key.
        """
        if url is None and api_key is None:
            url, api_key = (
                os.environ.get("LLMGINE_URL"),
                os.environ.get("LLMGINE_API_KEY"),
            )
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("an API key is printable ASCII")
        return cls(_checked(url or DEFAULT_URL), api_key or None)

    def settings(self, limits: httpx2.Limits) -> Settings:
        """For `httpx2.Client` and `httpx2.AsyncClient`."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.key}"} if self.key else {},
            "limits": limits,
            # A proxy would look for this machine's gateway on its own.
            "trust_env": httpx2.URL(self.url).host not in _LOOPBACK,
        }


def _checked(url: str) -> str:
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"{url!r} is not like http://host:port")
    return url.rstrip("/")
