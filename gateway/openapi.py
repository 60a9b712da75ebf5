"""`/openapi.json`: what routes declare, with the shapes they really take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from gateway import errors, shapes
from gateway.front import shapes as front_shapes
from gateway.letter_requests import LetterChoice, ReplaySubmission
from gateway.submission import BatchSubmission, JobSubmission
from llmgine_workers import __version__

_REF = "#/components/schemas/{model}"
_BODIES = (JobSubmission, BatchSubmission, LetterChoice, ReplaySubmission)
_MODELS = (*shapes.ALL, *front_shapes.ALL, *_BODIES)
_DESCRIPTIONS = {
    200: "Done",
    202: "Accepted: it is kept and will end",
    204: "All is told",
}


def documented(
    shape: str | None,
    statuses: tuple[int, ...] = (200,),
    media_type: str = "application/json",
    *,
    body: str | None = None,
    refused: str | None = None,
) -> dict[str, Any]:
    """A route's declaration: the shape it answers with each status, the body it takes.

    `refused` is the shape of a refusal where it is not a problem document.
    """
    schema = _ref(shape) if shape else {"type": "string"}
    answers: dict[int | str, Any] = {
        status: {
            "description": _DESCRIPTIONS[status],
            **({} if status == 204 else {"content": {media_type: {"schema": schema}}}),
        }
        for status in statuses
    }
    kind = "application/json" if refused else errors.MEDIA_TYPE
    problem = {kind: {"schema": _ref(refused or "Problem")}}
    answers["default"] = {"description": "Refused", "content": problem}
    extra = {"requestBody": _request_body(body)} if body else None
    return {
        "response_model": None,
        "response_class": Response,
        "status_code": statuses[0],
        "responses": answers,
        "openapi_extra": extra,
    }


def schema_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What `app.openapi` is to be: FastAPI's document with our shapes among its parts."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(
                get_openapi(
                    title="llmgine-workers",
                    version=__version__,
                    summary="LLM work as durable jobs",
                    routes=app.routes,
                )
            )
            parts = made.setdefault("components", {}).setdefault("schemas", {})
            parts.update(_shapes())
        return made

    return openapi


def _shapes() -> dict[str, Any]:
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for model in _MODELS
    ]
    _, schema = models_json_schema(models, ref_template=_REF)
    parts: dict[str, Any] = schema["$defs"]
    return parts


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


def _request_body(shape: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(shape)}}
    return {"required": True, "content": content}
