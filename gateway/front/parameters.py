"""The body of `POST /v1/chat/completions`: taken, left out, or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from chains.findings import pointer
from gateway.errors import Finding, Problem
from gateway.findings import findings_of

MAX_MESSAGES = 200
"""Turns of one conversation, as of an `llm` step."""

LEFT_OUT = (
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store",
    "parallel_tool_calls",
)  # fmt: skip
"""Taken and not passed on: they change nothing about the answer."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that are not supported, with the values that ask for nothing."""

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Asked = TypeVar("Asked", bound=BaseModel)
Role = Literal["system", "developer", "user", "assistant"]


def _content(value: Any) -> Any:
    """One text, or parts of text in a row."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            shown = kind if isinstance(kind, str) and kind.isidentifier() else "other"
            raise PydanticCustomError(
                "unsupported_parameter",
                f"parts must be text, {shown} parts are not taken",
            )
        texts.append(part["text"])
    return "".join(texts)


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Body(BaseModel):
    """What a client of theirs sends: nothing else is in it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ChatMessage(Body):
    """One turn; `developer` is `system` under its newer name."""

    role: Role
    content: Annotated[
        str,
        BeforeValidator(_content),
        WithJsonSchema({"type": ["string", "array"], "items": {"type": "object"}}),
    ]


class StreamOptions(Body):
    """`include_usage` adds a last chunk with the usage."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """A schema for the answer, which is held against it whatever `strict` says."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """Text, any JSON object, or one that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema of the answer; None for plain text."""
        if self.type == "json_object":
            return {"type": "object"}
        return self.json_schema.schema_ if self.json_schema else None


class ChatCompletionRequest(Body):
    """A conversation to be answered; null is the same as nothing."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Annotated[
        list[str] | None,
        BeforeValidator(_several),
        WithJsonSchema(
            {"type": ["string", "array", "null"], "items": {"type": "string"}}
        ),
    ] = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatCompletionRequest:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("write max_tokens or max_completion_tokens, not both")
        if all(turn.role in ("system", "developer") for turn in self.messages):
            raise ValueError("a conversation needs a turn of user or assistant")
        return self


def read(body: Any) -> ChatCompletionRequest:
    """The request; Problem with every finding if it cannot be honoured as it stands."""
    unsupported = list(_unsupported(body)) if isinstance(body, dict) else []
    return checked(ChatCompletionRequest, body, (*LEFT_OUT, *ONLY), unsupported)


def checked(
    shape: type[Asked], body: Any, aside: Collection[str], found: Sequence[Finding] = ()
) -> Asked:
    """A body in a shape, but for what is put aside; Problem with `found` and the rest."""
    findings = list(found)
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in aside}
    try:
        request = shape.model_validate(body)
    except ValidationError as error:
        findings += findings_of(error.errors(), tuple(shape.model_fields))
    if findings:
        raise Problem.of(findings)
    return request


def _unsupported(body: Mapping[str, Any]) -> Iterator[Finding]:
    for name, harmless in ONLY.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            yield {
                "pointer": pointer([name]),
                "code": "unsupported_parameter",
                "detail": "is not supported by this gateway",
            }
