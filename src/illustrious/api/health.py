"""For whoever watches the server: is the process alive, can it draw."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from illustrious.api import TheStudio

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    """200 while the server answers at all."""
    return {"status": "alive"}


@router.get("/ready")
async def ready(studio: TheStudio) -> JSONResponse:
    """200 once nothing is loading any more, 503 before."""
    loading = [
        f"{name} ({status.progress:.0%})" if status.progress is not None else name
        for name, status in studio.backends().items()
        if status.loading
    ]
    if loading:
        return JSONResponse({"detail": f"Still loading: {', '.join(loading)}. Ask again in a moment."}, 503)
    return JSONResponse({"status": "ready"})
