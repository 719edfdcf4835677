"""A gallery in an empty folder, at a time that stands still."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from illustrious.database import Database
from illustrious.gallery.store import Gallery, SavedPicture
from illustrious.images.fake import draw
from illustrious.types import ImageRequest

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


@pytest.fixture
def gallery(database: Database, tmp_path: Path) -> Gallery:
    return Gallery(database, tmp_path, now=lambda: NOW)


Save = Callable[..., SavedPicture]


@pytest.fixture
def save(gallery: Gallery) -> Save:
    """Draw and save a picture of a prompt; the keyword arguments are ``Gallery.save``'s, and ``seed``."""

    def save(prompt: str = "a red apple", seed: int = 1, source: str = "test", **more: object) -> SavedPicture:
        return asyncio.run(gallery.save(draw(ImageRequest(prompt=prompt, seed=seed)), source, **more))  # type: ignore[arg-type]

    return save
