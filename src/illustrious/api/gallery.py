"""Pictures by id."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from illustrious.api import TheStudio

router = APIRouter(tags=["gallery"])


@router.get("/images/{image_id}", response_class=FileResponse)
async def image(image_id: str, studio: TheStudio) -> FileResponse:
    """The picture's file. It never changes, so it may be cached for good."""
    file = await studio.gallery.file(image_id)
    return FileResponse(file, headers={"Cache-Control": "private, max-age=31536000, immutable"})
