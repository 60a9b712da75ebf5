"""OpenAI's Embeddings, which most services with vectors speak: a body, and its answer."""

from __future__ import annotations

from typing import Any

from llmgine_workers.llm import EmbedRequest, Usage
from llmgine_workers.providers.openai_wire import complain, usage_of
from llmgine_workers.providers.rows import Service


def body_of(request: EmbedRequest, service: Service) -> dict[str, Any]:
    """The body; as floats, since not every service knows base64."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": request.texts,
        "encoding_format": "float",
    }
    if request.dimensions is not None:
        body[service.dimensions] = request.dimensions
    return body


def read(document: Any, texts: int) -> tuple[list[list[float]], str | None, Usage | None]:
    """The vectors in the order of the texts, the model and the usage.

    ErrorEvent; ValueError and its like if it is not a vector for each text.
    """
    complain(document)
    found = {item["index"]: item["embedding"] for item in document["data"]}
    vectors = [found[index] for index in range(texts)]
    size = len(vectors[0])
    for vector in vectors:
        if not size or len(vector) != size or {*map(type, vector)} - {float, int}:
            raise ValueError("not a vector of numbers for each text")
    used = usage_of(document)
    return vectors, document.get("model"), used if used and used.input_tokens else None
