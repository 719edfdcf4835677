"""The gallery: pictures as ordinary files in dated folders, each with its parameters inside, and a row for each.

The file is written first, whole or not at all, then the row; so a row never speaks of a picture that was not saved, and
a file whose row is missing (the process died between the two) is found by the next scan or by saving it again.
"""

import asyncio
import contextlib
import io
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from sqlalchemy import Row, delete, select
from sqlalchemy.exc import IntegrityError

from illustrious import __version__, parameters
from illustrious.database import Database
from illustrious.errors import EngineFailed, InvalidRequest, NotFound, StorageFailed
from illustrious.gallery import export, formats, search, table, thumbnails
from illustrious.gallery.files import ID, is_picture, move, own_path, trash_path, write_atomically
from illustrious.gallery.formats import Format
from illustrious.gallery.scan import Scan, ScanReport
from illustrious.gallery.search import Filters, Page, Query
from illustrious.gallery.table import Picture, images, picture_of
from illustrious.pictures import DAMAGED
from illustrious.types import ImageResult, Noun, told

ATTEMPTS = 5
LONGEST_TAG, MOST_TAGS = 100, 100
THUMBNAILS_AT_ONCE = 2
EXPORT_PAGE = 100


class SavedPicture(Noun):
    """A picture that is on disk. ``url`` is relative to the server."""

    id: str
    url: str
    path: Path
    result: ImageResult


class Gallery:
    """The pictures under ``folder``/images; ``folder``/trash and ``folder``/cache/thumbnails are its own too."""

    def __init__(self, database: Database, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._folder = folder
        self._cache = folder / "cache" / "thumbnails"
        self._now = now
        self._scanning = asyncio.Lock()
        self._shrinking = asyncio.Semaphore(THUMBNAILS_AT_ONCE)

    async def save(
        self,
        result: ImageResult,
        source: str,
        *,
        image_id: str | None = None,
        created: float | None = None,
        job: str | None = None,
        parent: str | None = None,
        owner: str | None = None,
        environment: Mapping[str, Any] | None = None,
        format: Format = "png",
    ) -> SavedPicture:
        """Write the picture, with its parameters in it, and its row.

        The file's place is told by ``image_id`` (letters, digits, ``-`` and ``_``, at most 64) and ``created`` (seconds
        since 1970) alone: saving both again replaces the picture, and keeps its rating and tags. Raises
        ``StorageFailed``, ``EngineFailed`` when the result is no picture, ``InvalidRequest`` at such an id or a prompt
        too long for the format.
        """
        about = {
            "source": source,
            "job": job,
            "parent": parent,
            "owner": owner,
            "environment": None if environment is None else dict(environment),
        }
        image_id = secrets.token_hex(8) if image_id is None else image_id
        created = self._now() if created is None else created
        return await asyncio.to_thread(self._save, result, image_id, created, format, about)

    async def get(self, image_id: str) -> Picture:
        """Also one that is in the trash. Raises ``NotFound``."""
        return await asyncio.to_thread(self._get, image_id)

    async def open(self, image_id: str, trash: bool = False) -> tuple[Picture, Path]:
        """The picture and where its file is. Raises ``NotFound``; the id is looked up, never used as a path."""
        return await asyncio.to_thread(self._open, image_id, trash)

    async def file(self, image_id: str) -> Path:
        """Where the picture is. Raises ``NotFound``."""
        _, path = await self.open(image_id)
        return path

    async def thumbnail(self, image_id: str, size: int, trash: bool = False) -> bytes:
        """A small copy (WebP), see ``thumbnails``. Raises ``NotFound``, ``StorageFailed``."""
        _, path = await self.open(image_id, trash)
        async with self._shrinking:
            return await asyncio.to_thread(thumbnails.thumbnail, path, image_id, size, self._cache)

    async def page(self, query: Query) -> Page:
        """Raises ``InvalidRequest`` at a cursor of another list."""
        return await asyncio.to_thread(self._page, query)

    async def change(
        self,
        image_id: str,
        *,
        rating: int | None = None,
        favourite: bool | None = None,
        tags: Sequence[str] | None = None,
    ) -> Picture:
        """Change what is given; ``tags`` replace those before. Raises ``NotFound``, ``InvalidRequest``."""
        cleaned = None if tags is None else _clean(tags)
        values = {name: value for name, value in (("rating", rating), ("favourite", favourite)) if value is not None}
        return await asyncio.to_thread(self._change, image_id, values, cleaned)

    async def delete(self, image_id: str) -> Picture:
        """Into the trash, from where ``restore`` brings it back. Raises ``NotFound``, ``StorageFailed``."""
        return await asyncio.to_thread(self._delete, image_id)

    async def restore(self, image_id: str) -> Picture:
        """Out of the trash, to where it was, or beside what is there now. Raises ``NotFound``, ``StorageFailed``."""
        return await asyncio.to_thread(self._restore, image_id)

    async def sweep_trash(self, older_than: float) -> int:
        """Delete for good what went to the trash more than so many seconds ago; how many. Nothing outside the trash is
        ever deleted. Raises ``StorageFailed``."""
        return await asyncio.to_thread(self._sweep_trash, self._now() - older_than)

    async def scan(self) -> ScanReport:
        """Look for files that came, moved or went; one scan at a time. Raises ``StorageFailed``.

        In small pieces, so that a long scan holds no thread for long and ends when it is cancelled.
        """
        async with self._scanning:
            pieces = Scan(self._database, self._folder, self._now()).pieces()
            report = ScanReport()
            while (further := await asyncio.to_thread(next, pieces, None)) is not None:
                report = further
            return report

    def export(self, filters: Filters) -> Iterator[bytes]:
        """A ZIP file of all that the filters let through, newest first, in pieces. Blocks while it is read."""
        return export.zip_stream(self._all(filters), self._folder)

    async def export_these(self, ids: Sequence[str]) -> Iterator[bytes]:
        """The same of these pictures, in this order. Raises ``NotFound`` when one of them is not here."""
        pictures = [picture for picture, _ in await asyncio.gather(*(self.open(image_id) for image_id in ids))]
        return export.zip_stream(pictures, self._folder)

    def _save(
        self, result: ImageResult, image_id: str, created: float, format: Format, about: dict[str, Any]
    ) -> SavedPicture:
        if not ID.fullmatch(image_id):
            raise InvalidRequest(f"{image_id!r} is no id; use up to 64 letters, digits, - and _.", field="image_id")
        request = result.request
        text = parameters.render(
            request,
            model=result.model,
            sampler=result.sampler,
            version=f"Illustrious AI Studio {__version__}",
            schedule=result.schedule,
            model_hash=result.model_hash,
            lora_hashes=result.lora_hashes,
        )
        image = _decode(result.image)
        data = parameters.write_png(result.image, text) if format == "png" else formats.encode(image, format, text)
        path = own_path(image_id, created, formats.SUFFIX[format])
        file = self._folder / path
        try:
            write_atomically(file, data)
            stat = file.stat()
        except OSError as error:
            raise StorageFailed(
                f"The picture could not be saved in {self._folder / 'images'}: {error.strerror}. "
                "Free some space or mend the folder's permissions, then try again."
            ) from error
        values = {
            **about,
            "state": "shown",
            "origin": None,
            "trashed": None,
            "created": created,
            "path": path,
            "bytes": stat.st_size,
            "mtime": stat.st_mtime_ns,
            "format": format,
            "pixels": formats.digest(image),
            "width": image.width,
            "height": image.height,
            "seed": request.seed,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "model": result.model,
            "model_hash": result.model_hash,
            "lora_hashes": result.lora_hashes or None,
            "parameters": {
                **told(request),
                "model": result.model,
                "sampler": result.sampler,
                **({"schedule": result.schedule} if result.schedule is not None else {}),
                "warnings": list(result.warnings),
            },
        }
        replaced = self._put(image_id, values)
        if replaced is not None and replaced != path:
            with contextlib.suppress(OSError):  # the picture is saved; the next scan sees what is left
                (self._folder / replaced).unlink()
        saved = result.model_copy(update={"image": data})
        return SavedPicture(id=image_id, url=f"/images/{image_id}", path=file, result=saved)

    def _put(self, image_id: str, values: dict[str, Any]) -> str | None:
        """Write the row; the path that the picture had before. Where writers do not take turns (PostgreSQL) two may
        want one place or one id at the same moment: the later one looks again."""
        for attempt in range(ATTEMPTS):
            try:
                with self._database.begin() as connection:
                    # A scan that saw the file before its row may have given it an id of its own.
                    connection.execute(delete(images).where(images.c.path == values["path"], images.c.id != image_id))
                    before = table.find(connection, image_id)
                    table.put(connection, image_id, values)
                    return None if before is None else str(before.path)
            except IntegrityError as error:
                if attempt == ATTEMPTS - 1:
                    raise StorageFailed("The database is too busy to note the picture. Try again.") from error
        raise AssertionError("unreachable")

    def _get(self, image_id: str) -> Picture:
        with self._database.read() as connection:
            return picture_of(_there(table.find(connection, image_id), image_id))

    def _open(self, image_id: str, trash: bool) -> tuple[Picture, Path]:
        picture = self._get(image_id)
        file = self._folder / picture.path
        if (picture.state == "trashed") != trash or not is_picture(file):
            raise _missing(image_id)
        return picture, file

    def _page(self, query: Query) -> Page:
        with self._database.read() as connection:
            rows = connection.execute(search.statement(query, connection.dialect.name)).all()
        shown, last = rows[: query.limit], None
        if len(rows) > len(shown):
            last = search.cursor_after(query.sort, shown[-1].position, shown[-1].rating)
        return Page(items=tuple(picture_of(row) for row in shown), next=last)

    def _all(self, filters: Filters) -> Iterator[Picture]:
        cursor: str | None = None
        while True:
            page = self._page(Query(**dict(filters), limit=EXPORT_PAGE, cursor=cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def _change(self, image_id: str, values: dict[str, Any], tags: Sequence[str] | None) -> Picture:
        with self._database.begin() as connection:
            row = _there(table.find(connection, image_id), image_id)
            if values:
                table.put(connection, image_id, values)
            if tags is not None:
                table.put_tags(connection, row, tags)
            return picture_of(_there(table.find(connection, image_id), image_id))

    def _delete(self, image_id: str) -> Picture:
        with self._database.begin() as connection:
            row = _there(table.find(connection, image_id), image_id)
            if row.state != "trashed":
                target = trash_path(image_id, row.path)
                values = {"state": "trashed", "trashed": self._now(), "origin": row.path, "path": target}
                table.put(connection, image_id, values)
                # Last, so that it is undone with the row when it fails. If we die before the row is committed,
                # the scan finds the file by its name in the trash.
                self._move(row.path, target, image_id)
            picture = picture_of(_there(table.find(connection, image_id), image_id))
        thumbnails.forget(image_id, self._cache)
        return picture

    def _restore(self, image_id: str) -> Picture:
        with self._database.begin() as connection:
            row = _there(table.find(connection, image_id), image_id)
            if row.state == "trashed":
                taken = select(images.c.id)
                target = next(
                    path
                    for path in _names_like(row.origin)
                    if not (self._folder / path).exists()
                    and connection.execute(taken.where(images.c.path == path)).first() is None
                )
                values = {"state": "shown", "trashed": None, "origin": None, "path": target}
                table.put(connection, image_id, values)
                self._move(row.path, target, image_id)
            return picture_of(_there(table.find(connection, image_id), image_id))

    def _move(self, path: str, target: str, image_id: str) -> None:
        source = self._folder / path
        if not is_picture(source):
            raise _missing(image_id)
        try:
            move(source, self._folder / target)
        except OSError as error:
            raise StorageFailed(
                f"The file {path} could not be moved to {target}: {error.strerror}. "
                "Mend the permissions of the data folder, then try again."
            ) from error

    def _sweep_trash(self, before: float) -> int:
        old = select(images).where(images.c.state == "trashed", images.c.trashed < before)
        with self._database.read() as connection:
            ids = [row.id for row in connection.execute(old)]
        swept = 0
        for image_id in ids:
            with self._database.begin() as connection:
                row = table.find(connection, image_id)
                if row is None or row.state != "trashed":  # restored meanwhile
                    continue
                table.remove(connection, row)
                try:
                    (self._folder / trash_path(image_id, row.path)).unlink(missing_ok=True)
                except OSError as error:
                    raise StorageFailed(
                        f"The trash could not be emptied: {error.strerror}. "
                        f"Mend the permissions of {self._folder / 'trash'}, then try again."
                    ) from error
            thumbnails.forget(image_id, self._cache)
            swept += 1
        return swept


def _decode(data: bytes) -> Image.Image:
    """An engine's picture, however large: only what users send is held to a limit."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except DAMAGED as error:
        raise EngineFailed(
            "The image engine's picture is not a PNG file. Try again, or choose another engine."
        ) from error
    return image


def _missing(image_id: str) -> NotFound:
    return NotFound(f"There is no picture {image_id!r} here; it may have been moved or deleted.")


def _there(row: Row[Any] | None, image_id: str) -> Row[Any]:
    if row is None or row.state == "missing":
        raise _missing(image_id)
    return row


def _clean(tags: Sequence[str]) -> tuple[str, ...]:
    cleaned = tuple(dict.fromkeys(tag.strip() for tag in tags))
    if len(cleaned) > MOST_TAGS:
        raise InvalidRequest(f"A picture has at most {MOST_TAGS} tags; leave some out.", field="tags")
    for tag in cleaned:
        if not tag or len(tag) > LONGEST_TAG or not tag.isprintable():
            raise InvalidRequest(f"A tag is a line of 1 to {LONGEST_TAG} visible characters.", field="tags")
    return cleaned


def _names_like(path: str) -> Iterator[str]:
    """The path itself, then ``name (2).png`` and so on."""
    yield path
    wanted, number = PurePosixPath(path), 1
    while True:
        number += 1
        yield str(wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}"))
