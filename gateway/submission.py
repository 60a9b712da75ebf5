"""The bodies of a job and of a batch: checked whole, then asked of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
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

from chains import duration
from gateway.errors import Problem
from gateway.findings import findings_of
from llmgine_workers.engine.submit import MAX_BATCH, JobRequest, Options
from llmgine_workers.webhooks.address import MAX_URL

MIN_TIMEOUT_S = 1.0
MAX_TIMEOUT_S = 86_400.0
MAX_METADATA_KEYS = 16
MAX_METADATA_CHARS = 512
"""Of a key and of a value."""
MAX_COST_USD = 1_000_000.0
LEAST_COST_USD = 0.000001
"""The unit in which money is counted."""


def _timeout(written: str) -> str:
    try:
        seconds = duration.seconds(written)
    except ValueError as error:
        raise PydanticCustomError("invalid_input", str(error)) from None
    if not MIN_TIMEOUT_S <= seconds <= MAX_TIMEOUT_S:
        raise PydanticCustomError("out_of_range", "from 1s to 24h")
    return written


def _chain(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, str) and 0 < len(value) <= 200):
        return value
    raise PydanticCustomError("invalid_input", "must be a chain's name or a chain object")


Shape = TypeVar("Shape", bound=BaseModel)
Text = Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARS)]
Chain = Annotated[
    Any,
    BeforeValidator(_chain),
    WithJsonSchema({"type": ["string", "object"], "additionalProperties": True}),
]


class Strict(BaseModel):
    """A body or a part of one: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class JobOptions(Strict):
    """How the job is to run; null is the installation's default."""

    priority: Literal["interactive", "normal", "batch"] = "normal"
    timeout: Annotated[str, AfterValidator(_timeout)] = "10m"
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    max_cost_usd: Annotated[float, Field(ge=LEAST_COST_USD, le=MAX_COST_USD)] | None = (
        None
    )
    stream: bool = True
    webhook: Annotated[str, StringConstraints(max_length=MAX_URL)] | None = None


class JobSubmission(Strict):
    """A job to be: a chain with its inputs, or one tool with its arguments."""

    chain: Chain = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    tool: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    metadata: Annotated[dict[Text, Text], Field(max_length=MAX_METADATA_KEYS)] = Field(
        default_factory=dict
    )
    options: JobOptions = Field(default_factory=JobOptions)

    @model_validator(mode="after")
    def _one_thing_to_do(self) -> JobSubmission:
        if (self.chain is None) == (self.tool is None):
            raise ValueError("write either chain or tool")
        if self.tool is not None and self.inputs:
            raise ValueError("a tool takes arguments, not inputs")
        if self.chain is not None and self.arguments:
            raise ValueError("a chain takes inputs, not arguments")
        return self


class BatchSubmission(Strict):
    """Jobs to be, all or none. `options.stream` is false unless a job says otherwise."""

    jobs: Annotated[list[JobSubmission], Field(min_length=1, max_length=MAX_BATCH)]


_FIELDS = (*JobSubmission.model_fields, *JobOptions.model_fields, "jobs")


def job_request(body: Any) -> JobRequest:
    """The engine's request; Problem with every finding if the body does not fit."""
    return _request(valid(JobSubmission, body, _FIELDS), stream=True)


def batch_requests(body: Any) -> list[JobRequest]:
    """The engine's requests, one per job; Problem with the findings of all."""
    listed = body.get("jobs") if isinstance(body, dict) else None
    if isinstance(listed, list) and len(listed) > MAX_BATCH:
        raise Problem("batch_too_large", f"at most {MAX_BATCH} jobs, got {len(listed)}")
    asked = valid(BatchSubmission, body, _FIELDS)
    return [_request(job, stream=False) for job in asked.jobs]


def valid(shape: type[Shape], body: Any, known: Sequence[str]) -> Shape:
    """The body in its shape; Problem with every finding. `known`: names of fields."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise Problem.of(findings_of(error.errors(), known)) from None


def _request(asked: JobSubmission, *, stream: bool) -> JobRequest:
    """`stream` is what holds where the job does not say."""
    options = asked.options
    return JobRequest(
        chain=asked.chain,
        tool=asked.tool,
        arguments=asked.arguments,
        inputs=asked.inputs,
        metadata=asked.metadata,
        options=Options(
            priority=options.priority,
            timeout_s=duration.seconds(options.timeout),
            max_attempts=options.max_attempts,
            max_cost_usd=options.max_cost_usd,
            webhook=options.webhook,
            stream=options.stream if "stream" in options.model_fields_set else stream,
        ),
    )
