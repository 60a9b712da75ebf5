"""What a wire format is to the exchange: a body to send, an answer to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from llmgine_workers.llm import Delta, LlmRequest, Usage
from llmgine_workers.providers.rows import Service
from llmgine_workers.providers.sse import Event

CONNECT_S = 5.0
"""Seconds one address has to accept a connection."""
FIND_S = 10.0
"""Seconds for all of it: name, every address, TLS."""
KEEP_S = 120.0
"""Seconds an idle connection is kept, so that steady work never pays for TLS."""
CONNECTIONS = 10_000
"""As many as `worker.slots` may be: the slots are the bound, not the pool."""


@dataclass(frozen=True)
class Reading:
    """What an answer says, before it is judged. `refused`: a safety filter spoke."""

    text: str
    finish_reason: str | None
    model: str | None
    usage: Usage | None
    refused: bool = False


class ErrorEvent(Exception):
    """The service put an error where an answer should be; `document` is its words."""

    def __init__(self, document: Any) -> None:
        super().__init__("error event")
        self.document = document


class Follower(Protocol):
    """Reads one streamed answer."""

    done: bool

    def feed(self, event: Event) -> Sequence[Delta]:
        """The pieces in this event. ErrorEvent; ValueError and its like if unreadable."""
        ...

    def reading(self) -> Reading:
        """All that was read so far."""
        ...


class Wire(Protocol):
    """One wire format; it keeps no state."""

    path: str

    def open_client(self, base_url: str, key: str) -> Any:
        """The official SDK's async client; imports the SDK, opens no socket."""
        ...

    def body(
        self, request: LlmRequest, service: Service, *, streamed: bool
    ) -> dict[str, Any]:
        """The JSON body of the call."""
        ...

    def read(self, document: Any) -> Reading:
        """A whole answer. ErrorEvent; ValueError and its like if unreadable."""
        ...

    def follow(self) -> Follower:
        """A reader for one streamed answer."""
        ...


def http_client(client_class: Any) -> Any:
    """An SDK's `DefaultAioHttpClient`, sized for thousands of calls at once.

    No redirects: they would carry the key to whatever address they name. No
    compression: answers are small and decompressing has no bound. (aiohttp takes the
    pool's time-out for the whole of finding a connection.)
    """
    return client_class(
        limits=httpx2.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEP_S,
        ),
        timeout=timeouts(None),
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
    )


def timeouts(idle_s: float | None) -> httpx2.Timeout:
    """The transport's time-outs with so much silence allowed (None: any)."""
    return httpx2.Timeout(None, connect=CONNECT_S, pool=FIND_S, read=idle_s)


def chosen(request: LlmRequest, service: Service) -> Mapping[str, Any]:
    """The request's parameters that this service takes, by their place in the body."""
    return {
        place: request.parameters[name]
        for name, place in service.parameters.items()
        if name in request.parameters
    }


def count(usage: Mapping[str, Any], *path: str) -> int:
    """A number of tokens inside a usage report; 0 if it is not there."""
    value: Any = usage
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0
