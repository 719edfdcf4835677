"""/metrics, for Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from illustrious.api import TheStudio

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def metrics(studio: TheStudio) -> Response:
    """Queue depth, wait and run times, steps, failures, restarts and memory in Prometheus' text format."""
    depth = await studio.runner.store.depth()
    return Response(studio.metrics.exposition(depth, studio.processes()), media_type=CONTENT_TYPE_LATEST)
