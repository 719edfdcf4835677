"""Pictures as ordinary files in dated folders, each with its parameters inside, and a row for each in the database.

The file is written whole or not at all: beside its place, flushed to the disk, then renamed into it.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import JSON, BigInteger, Column, Float, Integer, MetaData, String, Table, Text, insert, select

from illustrious import __version__, parameters
from illustrious.database import Database
from illustrious.errors import NotFound, StorageFailed
from illustrious.types import ImageResult, Noun

metadata = MetaData()

images = Table(
    "images",
    metadata,
    Column("id", String, primary_key=True),
    Column("path", String, unique=True),  # relative to the data folder, with forward slashes
    Column("created", Float, index=True),  # seconds since 1970, UTC
    Column("width", Integer),
    Column("height", Integer),
    Column("seed", BigInteger),
    Column("prompt", Text),
    Column("negative_prompt", Text),
    Column("parameters", JSON),
    Column("source", String),
)


class SavedPicture(Noun):
    """A picture that is on disk. ``url`` is relative to the server."""

    id: str
    url: str
    path: Path
    result: ImageResult


class Gallery:
    """The pictures under ``folder``/images."""

    def __init__(self, database: Database, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._folder = folder
        self._now = now

    async def save(self, result: ImageResult, source: str) -> SavedPicture:
        """Write the picture, with its parameters in it, and its row. Raises ``StorageFailed``."""
        return await asyncio.to_thread(self._save, result, source)

    async def file(self, image_id: str) -> Path:
        """Where the picture is. Raises ``NotFound``; the id is looked up, never used as a path."""
        return await asyncio.to_thread(self._file, image_id)

    def _save(self, result: ImageResult, source: str) -> SavedPicture:
        image_id = secrets.token_hex(8)
        created = self._now()
        day = datetime.fromtimestamp(created, UTC)
        path = Path("images") / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}" / f"{day:%H%M%S}-{image_id}.png"
        text = parameters.render(
            result.request, model=result.model, sampler=result.sampler, version=f"Illustrious AI Studio {__version__}"
        )
        data = parameters.write_png(result.image, text)
        try:
            write_atomically(self._folder / path, data)
        except OSError as error:
            raise StorageFailed(
                f"The picture could not be saved in {self._folder / 'images'}: {error.strerror}. "
                "Free some space or mend the folder's permissions, then try again."
            ) from error
        request = result.request
        with self._database.begin() as connection:
            connection.execute(
                insert(images).values(
                    id=image_id,
                    path=path.as_posix(),
                    created=created,
                    width=request.width,
                    height=request.height,
                    seed=request.seed,
                    prompt=request.prompt,
                    negative_prompt=request.negative_prompt,
                    parameters={
                        **request.model_dump(mode="json"),
                        "model": result.model,
                        "sampler": result.sampler,
                        "warnings": list(result.warnings),
                    },
                    source=source,
                )
            )
        saved = result.model_copy(update={"image": data})
        return SavedPicture(id=image_id, url=f"/images/{image_id}", path=self._folder / path, result=saved)

    def _file(self, image_id: str) -> Path:
        with self._database.begin() as connection:
            found = connection.execute(select(images.c.path).where(images.c.id == image_id)).scalar_one_or_none()
        file = None if found is None else self._folder / found
        if file is None or not file.is_file():
            raise NotFound(f"There is no picture {image_id!r} here; it may have been moved or deleted.")
        return file


def write_atomically(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, also when the process or the machine dies in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
