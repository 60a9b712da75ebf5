"""The vocabulary of one model call: what every provider takes and gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llmgine_workers.errors import Failure, StepFailed


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more calls, as the provider reported them."""

    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True)
class Quota:
    """What a provider says is left of its own limits; None where it said nothing."""

    requests: int | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class ModelRef:
    """`provider/model`, split at the first slash."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """ValueError unless the text has a slash with something on both sides."""
        provider, slash, model = text.partition("/")
        if not (provider and slash and model):
            raise ValueError(f"{text!r} is not provider/model")
        return cls(provider, model)

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class LlmRequest:
    """One call as a chain asks for it, before any wire format.

    `schema` asks for a JSON object; `parameters` holds what only some models
    take (temperature, stop ...); adapters pass on what their model allows.
    """

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    max_tokens: int | None = None
    schema: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """What the model reads."""
        return [self.system or "", *(message.content for message in self.messages)]


@dataclass(frozen=True)
class EmbedRequest:
    """One call for the vectors of texts; `dimensions` None is the model's own size."""

    model: str
    texts: list[str]
    dimensions: int | None = None


@dataclass(frozen=True)
class LlmAnswer:
    """What came back. `text` is whole; `finish_reason` is never None.

    `finish_reason` is `stop`, `length` or `tool_calls` on every wire, or the service's
    own word for what is none of these; `model` is the service's name of the model.
    """

    text: str
    finish_reason: str
    model: str
    usage: Usage
    status: int
    request_id: str | None
    quota: Quota = Quota()


@dataclass(frozen=True)
class Embedded:
    """A vector for each text, in their order, all of one size; else as `LlmAnswer`."""

    vectors: list[list[float]]
    model: str
    usage: Usage
    status: int
    request_id: str | None
    quota: Quota = Quota()


@dataclass(frozen=True)
class Delta:
    """A piece of an answer while it streams; exactly one field is set."""

    text: str | None = None
    reasoning: str | None = None
    tool_call: Mapping[str, Any] | None = None


OnDelta = Callable[[Delta], Awaitable[None]]


class CallFailed(StepFailed):
    """A failed call; `usage` is what it is billed for, None if nobody can know.

    Reported by the service where it did (a refusal, an answer nobody can use),
    estimated from the texts where an answer broke off.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        retry_after_s: float | None = None,
        before_first_byte: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(
            failure, retry_after_s=retry_after_s, before_first_byte=before_first_byte
        )
        self.usage = usage


class Provider(Protocol):
    """One wire format speaking to one configured service.

    Both calls raise `CallFailed` with a provider code or `step_timeout` and nothing else
    (but CancelledError and whatever `on_delta` raises); its `before_first_byte` says
    that nothing of the answer had arrived yet.
    """

    async def call(
        self,
        request: LlmRequest,
        *,
        timeout_s: float,
        headers: Mapping[str, str],
        on_delta: OnDelta | None = None,
    ) -> LlmAnswer:
        """Make one physical call; streamed when `on_delta` is given."""
        ...

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str]
    ) -> Embedded:
        """Make one physical call for vectors."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
