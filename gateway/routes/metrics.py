"""`/metrics`: what this gateway did, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.context import Here
from gateway.openapi import documented
from llmgine_workers.events.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/metrics", **documented(None, media_type="text/plain"))
async def metrics(here: Here) -> Response:
    """Counters and histograms of this process, in Prometheus' text format."""
    return Response(here.rt.metrics.text(), media_type=CONTENT_TYPE)
