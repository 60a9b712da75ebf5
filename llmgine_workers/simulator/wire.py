"""What both wire formats have in common: the verbs each answers with its own bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llmgine_workers.simulator.answer import Answer
from llmgine_workers.simulator.limits import Budget
from llmgine_workers.simulator.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. `kind` is one of `faults.STATUS_OF`; the rest may say more."""

    kind: str
    message: str | None = None
    param: str | None = None
    scope: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The names a reply carries: its request id and its second."""

    request_id: str
    created: int


@dataclass(frozen=True, slots=True)
class Frames:
    """A stream, encoded: what precedes the content, the content, what follows it."""

    opening: bytes
    content: list[bytes]
    closing: bytes


class Wire(Protocol):
    """One service's format."""

    name: str

    def key(self, headers: Mapping[str, str]) -> str | None:
        """The API key the client sent, None without one."""

    def read(self, body: Mapping[str, Any]) -> Prompt:
        """Read a request. BadRequestError if the service would refuse it."""

    def whole(self, answer: Answer, prompt: Prompt, reply: Reply) -> bytes:
        """The body of a plain answer."""

    def stream(self, answer: Answer, prompt: Prompt, reply: Reply, chunks: int) -> Frames:
        """The body of a streamed answer in about this many chunks."""

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        """The body of an error answer."""

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """The same as an event within a stream."""

    def headers(self, request_id: str, budgets: Mapping[str, Budget]) -> dict[str, str]:
        """Headers of every answer."""

    def retry_headers(self, seconds: float) -> dict[str, str]:
        """Headers that say when to come back."""

    def models(self, names: tuple[str, ...]) -> bytes:
        """The list of models."""


def dump(value: Any) -> bytes:
    """JSON as the services write it: compact, UTF-8, escaped only where it must be."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def pieces(text: str, count: int) -> list[str]:
    """Cut a text into at most `count` parts of equal length."""
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def around(frame: Any, gap: str) -> tuple[bytes, bytes]:
    """Encode a frame once, to be filled many times: the bytes before and after `gap`."""
    before, after = dump(frame).split(dump(gap))
    return before, after
