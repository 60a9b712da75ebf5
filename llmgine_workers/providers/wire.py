"""What a wire format is to the exchange: a body to send, an answer to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmgine_workers.llm import Delta, LlmRequest, Usage
from llmgine_workers.providers.rows import Service
from llmgine_workers.providers.sse import Event


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
