"""`POST /v1/embeddings`: its body, the job of one step it becomes, and the answer."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from chains.chain import MAX_TEXTS
from gateway.errors import Problem
from gateway.front.chat_job import number_input
from gateway.front.parameters import Body, ModelName, checked
from gateway.submission import job_request
from llmgine_workers.engine.submit import JobRequest
from llmgine_workers.errors import Refusal
from llmgine_workers.runtime import Runtime

STEP = "embed"
LEFT_OUT = ("user",)
"""Taken and not passed on."""


def _texts(value: Any) -> Any:
    """One text, or several; not yet tokens in their place."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and any(isinstance(text, int | list) for text in texts):
        detail = "must be a text or a list of texts; tokens are not taken"
        raise PydanticCustomError("unsupported_parameter", detail)
    return texts


class EmbeddingsRequest(Body):
    """Texts to make vectors of; null is the same as nothing."""

    model: ModelName
    input: Annotated[
        list[Annotated[str, StringConstraints(min_length=1)]],
        Field(min_length=1, max_length=MAX_TEXTS),
        BeforeValidator(_texts),
        WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}}),
    ]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


def read(body: Any) -> EmbeddingsRequest:
    """The request; Problem with every finding if it cannot be honoured as it stands."""
    return checked(EmbeddingsRequest, body, LEFT_OUT)


def embeddings_job(
    rt: Runtime, asked: EmbeddingsRequest, options: Mapping[str, Any]
) -> JobRequest:
    """The job; Problem names what it cannot be made of."""
    try:
        models = rt.models.embedding((asked.model,))
    except Refusal as nobody:
        finding = {"pointer": "/model", "code": nobody.code, "detail": str(nobody)}
        raise Problem.of([finding]) from None
    given: dict[str, Any] = {"input": asked.input}
    if asked.dimensions is not None:
        given["dimensions"] = asked.dimensions
    chain = _chain(list(models), has_size="dimensions" in given)
    return job_request(
        {"chain": chain, "inputs": given, "options": {**options, "stream": False}}
    )


def _chain(models: list[str], *, has_size: bool) -> dict[str, Any]:
    """Vectors are kept as base64, whatever the client wants: it is half as large."""
    inputs: dict[str, Any] = {"input": {"type": "array", "items": {"type": "string"}}}
    call = {"model": models, "input": "{{ inputs.input }}", "encoding": "base64"}
    if has_size:
        inputs["dimensions"] = number_input("dimensions")
        call["dimensions"] = "{{ inputs.dimensions }}"
    return {
        "name": "embeddings",
        "description": "Vectors of texts, asked for in OpenAI's format.",
        "inputs": inputs,
        "steps": [{"name": STEP, "embed": call}],
    }


def embeddings(step: Mapping[str, Any], encoding: str | None) -> dict[str, Any]:
    """The whole answer of a step that succeeded."""
    used = step["usage"]["input_tokens"]
    vectors = step["output"]
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector if encoding == "base64" else _floats(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": step["model"],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _floats(vector: str) -> list[float]:
    numbers = array("f", b64decode(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
