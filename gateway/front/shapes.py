"""OpenAI's shapes for `/openapi.json`; answers are held against them by the tests."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gateway.front.embeddings import EmbeddingsRequest
from gateway.front.parameters import ChatCompletionRequest


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OpenAIError(_Shape):
    """Why there is no answer; the code is one of ours."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorResponse(_Shape):
    """A refusal, or a job that failed."""

    error: OpenAIError


class CachedTokens(_Shape):
    """Part of the prompt's tokens."""

    cached_tokens: int


class ReasoningTokens(_Shape):
    """Part of the answer's tokens."""

    reasoning_tokens: int


class TokenUsage(_Shape):
    """Tokens of all calls of the job."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class AssistantMessage(_Shape):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None


class Choice(_Shape):
    """The one answer to a request."""

    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatCompletion(_Shape):
    """An answer; streamed, it comes as `chat.completion.chunk` events instead."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage


class Embedding(_Shape):
    """The vector of one text: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class InputUsage(_Shape):
    """Tokens of all calls of the job."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(_Shape):
    """A vector for each text, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class Model(_Shape):
    """A model or an alias that can be asked here."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Shape):
    """Aliases first."""

    object: Literal["list"]
    data: list[Model]


ALL = (
    ChatCompletion,
    ChatCompletionRequest,
    EmbeddingList,
    EmbeddingsRequest,
    Model,
    ModelList,
    OpenAIErrorResponse,
)
