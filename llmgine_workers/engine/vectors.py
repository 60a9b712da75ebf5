"""Vectors as they are stored: lists of numbers, or base64 of little-endian float32."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from llmgine_workers.engine.clean import MAX_PAYLOAD
from llmgine_workers.errors import Failure, StepFailed

_BYTES = {"float": 10.0, "base64": 16 / 3}
"""Of one number: `-0.012345,` (services give more digits, seldom fewer), and exactly."""


def encoded(vectors: Sequence[Sequence[float]], encoding: str) -> Sequence[Any]:
    """The vectors as a step asks for them."""
    return vectors if encoding == "float" else [_base64(vector) for vector in vectors]


def check_room(request: Mapping[str, Any]) -> None:
    """StepFailed `too_large` for more vectors than are stored, before they are paid.

    Only where `dimensions` tells how large they will be; else it is seen afterwards.
    """
    size = _BYTES[request["encoding"]] * request.get("dimensions", 0)
    texts = len(request["input"])
    if texts * size > MAX_PAYLOAD:
        most = int(MAX_PAYLOAD / size)
        detail = f"{texts} vectors of {request['dimensions']} dimensions are more than"
        raise StepFailed(Failure("too_large", f"{detail} is stored; at most {most} are"))


def _base64(vector: Sequence[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
