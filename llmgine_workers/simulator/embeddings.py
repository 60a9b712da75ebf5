"""`POST /v1/embeddings`: unit vectors in which texts that share words lie close."""

import array
import base64
import math
import sys
from collections.abc import Mapping
from typing import Any

from llmgine_workers.simulator.chance import seed_of
from llmgine_workers.simulator.prompt import (
    BadRequestError,
    optional_count,
    required_text,
)
from llmgine_workers.simulator.text import count_tokens
from llmgine_workers.simulator.wire import dump

DIMENSIONS = 256
_BITS = 64
_MAX_DIMENSIONS = 3072  # of the largest model the real service offers


def read_inputs(body: Mapping[str, Any]) -> list[str]:
    """The texts to embed; token arrays are taken as words. BadRequestError otherwise."""
    required_text(body, "model")
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    if items and all(isinstance(item, int) for item in items):
        items = [items]
    texts: list[Any] = [
        " ".join(map(str, item)) if isinstance(item, list) else item for item in items
    ]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        message = "'input' must be a non-empty string or a list of them"
        raise BadRequestError(message, "input")
    return texts


def embed(texts: list[str], body: Mapping[str, Any], seed: int) -> tuple[bytes, int]:
    """The response body, as floats or as base64 of float32, and its input tokens."""
    size = optional_count(body, "dimensions") or DIMENSIONS
    if size > _MAX_DIMENSIONS:
        message = f"'dimensions' must be at most {_MAX_DIMENSIONS}"
        raise BadRequestError(message, "dimensions")
    tokens = sum(map(count_tokens, texts))
    as_text = body.get("encoding_format") == "base64"
    vectors = [_vector(text, size, seed) for text in texts]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if as_text else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    reply = {"object": "list", "data": data, "model": body["model"], "usage": usage}
    return dump(reply), tokens


def _vector(text: str, size: int, seed: int) -> list[float]:
    sums = [0.0] * size
    for word in text.lower().split():
        bits = seed_of(seed, word)
        for shift in range(8):
            place = seed_of(bits, shift) % size
            sums[place] += 1.0 if bits >> (shift * 7) % _BITS & 1 else -1.0
    length = math.sqrt(sum(value * value for value in sums))
    if not length:
        return [1.0] + [0.0] * (size - 1)
    return [value / length for value in sums]


def _base64(vector: list[float]) -> str:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":  # the service sends little-endian
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
