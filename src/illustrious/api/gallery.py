"""The gallery: its pictures by id, its lists, and what people do with them."""

from email.utils import parsedate
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from illustrious.api import TheAsker, TheStudio, tell
from illustrious.errors import InvalidRequest
from illustrious.gallery import search
from illustrious.gallery.formats import MEDIA_TYPE
from illustrious.gallery.replay import Difference
from illustrious.gallery.scan import SOURCE, ScanReport
from illustrious.gallery.table import Picture

router = APIRouter(tags=["gallery"])

FOR_GOOD = "private, max-age=31536000, immutable"
"""The studio never changes a picture it has drawn; ``private``: it may be somebody's alone."""

ASK_FIRST = "private, no-cache"
"""A file that came by hand may be changed by hand: keep it, but ask each time whether it is still the same."""

MOST_IDS = 1000


class GalleryPicture(Picture):
    """``url`` and ``thumbnail`` are relative to the server."""

    url: str
    thumbnail: str


class GalleryPage(BaseModel):
    items: list[GalleryPicture]
    next: str | None = Field(description="Give it as cursor to get the next page; null on the last.")


class Export(search.Filters):
    ids: Annotated[list[str] | None, Field(description="These alone, separated by commas or repeated.")] = None


class Change(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    rating: Annotated[int, Field(ge=0, le=5, description="stars")] | None = None
    favourite: bool | None = None
    tags: Annotated[list[str] | None, Field(description="In place of those before.")] = None


@router.head("/images/{image_id}", response_class=FileResponse, include_in_schema=False)
@router.get("/images/{image_id}", response_class=FileResponse)
async def image(
    request: Request,
    image_id: str,
    studio: TheStudio,
    size: Annotated[int | None, Query(description="A WebP copy within so many pixels each way, 16 to 1024.")] = None,
    trash: Annotated[bool, Query(description="Look in the trash.")] = False,
) -> Response:
    """The picture's file, or a small copy of it. Answers 304 to a browser that has it, and parts of the file."""
    picture, file = await studio.gallery.open(image_id, trash)
    headers = {
        "Cache-Control": ASK_FIRST if picture.source == SOURCE else FOR_GOOD,
        "X-Content-Type-Options": "nosniff",
    }
    whole = FileResponse(
        file,
        headers=headers,
        media_type=MEDIA_TYPE[picture.format],
        filename=file.name,
        content_disposition_type="inline",
        stat_result=file.stat(),
    )
    if size is not None:
        whole.headers["etag"] = f'{whole.headers["etag"][:-1]}-{size}"'
    if is_unchanged(request.headers, whole.headers):
        return Response(status_code=304, headers=_validators(whole))
    if size is None:
        return whole
    small = await studio.gallery.thumbnail(image_id, size, trash)
    return Response(small, media_type="image/webp", headers=_validators(whole))


def _validators(whole: Response) -> dict[str, str]:
    return {name: whole.headers[name] for name in ("cache-control", "etag", "last-modified", "x-content-type-options")}


def is_unchanged(asked: Headers, now: Headers) -> bool:
    """Whether who asks has it already (RFC 9110, sections 13.1.2 and 13.1.3: a tag counts before a time)."""
    tags = asked.get("if-none-match")
    if tags is not None:
        return tags.strip() == "*" or now["etag"] in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
    since = parsedate(asked.get("if-modified-since", ""))
    changed = parsedate(now["last-modified"])
    return since is not None and changed is not None and changed <= since


@router.get("/gallery")
async def pictures(studio: TheStudio, query: Annotated[search.Query, Query()]) -> GalleryPage:
    """A page of the pictures that match; ``next`` leads on."""
    page = await studio.gallery.page(query)
    return GalleryPage(items=[render(picture) for picture in page.items], next=page.next)


@router.get("/gallery/export", response_class=StreamingResponse, responses={200: {"content": {"application/zip": {}}}})
async def export(studio: TheStudio, wanted: Annotated[Export, Query()]) -> StreamingResponse:
    """All that match, or those of ``ids``, as a ZIP file that is made while it is sent."""
    if wanted.ids is not None:
        ids = list(dict.fromkeys(part for text in wanted.ids for part in text.split(",") if part))
        if len(ids) > MOST_IDS:
            raise InvalidRequest(f"At most {MOST_IDS} ids at once; ask for the rest in another file.", field="ids")
        pieces = await studio.gallery.export_these(ids)
    else:
        filters = {name: getattr(wanted, name) for name in search.Filters.model_fields}
        pieces = studio.gallery.export(search.Filters.model_validate(filters))
    return StreamingResponse(
        pieces, media_type="application/zip", headers={"Content-Disposition": 'attachment; filename="pictures.zip"'}
    )


@router.post("/gallery/scan")
async def scan(studio: TheStudio) -> ScanReport:
    """Find what was put into the images folder by hand, or taken out; answers when done."""
    return await studio.gallery.scan()


@router.get("/gallery/{image_id}")
async def metadata(image_id: str, studio: TheStudio) -> GalleryPicture:
    return render(await studio.gallery.get(image_id))


@router.patch("/gallery/{image_id}")
async def change(image_id: str, body: Change, studio: TheStudio) -> GalleryPicture:
    """Rate, mark, tag."""
    changes: dict[str, Any] = body.model_dump()
    return render(await studio.gallery.change(image_id, **changes))


@router.delete("/gallery/{image_id}")
async def delete(image_id: str, studio: TheStudio) -> GalleryPicture:
    """Into the trash."""
    return render(await studio.gallery.delete(image_id))


@router.post("/gallery/{image_id}/restore")
async def restore(image_id: str, studio: TheStudio) -> GalleryPicture:
    """Out of the trash again."""
    return render(await studio.gallery.restore(image_id))


def render(picture: Picture) -> GalleryPicture:
    url = f"/images/{picture.id}"
    trash, also_trash = ("?trash=true", "&trash=true") if picture.state == "trashed" else ("", "")
    return GalleryPicture(**dict(picture), url=url + trash, thumbnail=f"{url}?size=256{also_trash}")


class Replay(BaseModel):
    """What drawing it again gave. ``image`` is the new picture, in the gallery too."""

    identical: bool = Field(description="Every pixel is the same.")
    max_difference: int | None = Field(description="Largest difference of a channel, 0 to 255; null at another size.")
    differing_pixels: int | None
    differences: list[Difference] = Field(description="What differs in parameters and environment.")
    image: str
    url: str


@router.post("/gallery/{image_id}/replay")
async def replay(image_id: str, request: Request, response: Response, asker: TheAsker, studio: TheStudio) -> Replay:
    """Draw it again from its metadata, and say whether it is the same picture."""
    report, drawn = await studio.replay(image_id, asker, lambda job: tell(job, request, response))
    return Replay(**report.model_dump(), image=drawn.id, url=drawn.url)
