"""A picture on disk: whole, with its parameters, found by its id."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from illustrious.database import Database
from illustrious.errors import NotFound, StorageFailed
from illustrious.gallery.store import Gallery, write_atomically
from illustrious.images.fake import draw
from illustrious.types import ImageRequest


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "studio.db")
    yield database
    database.close()


@pytest.fixture
def gallery(database: Database, tmp_path: Path) -> Gallery:
    return Gallery(database, tmp_path, now=lambda: 1_700_000_000.0)


RESULT = draw(ImageRequest(prompt="a red apple", negative_prompt="blue", seed=7))


async def test_a_picture_is_an_ordinary_file_in_a_dated_folder(gallery: Gallery, tmp_path: Path) -> None:
    saved = await gallery.save(RESULT, "test")
    assert saved.path.parent == tmp_path / "images" / "2023" / "11" / "14"
    assert await gallery.file(saved.id) == saved.path
    assert saved.path.read_bytes() == saved.result.image
    assert not list(saved.path.parent.glob(".*"))


async def test_its_pixels_are_untouched_and_its_parameters_are_in_it(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    picture = Image.open(saved.path)
    assert picture.tobytes() == Image.open(io.BytesIO(RESULT.image)).tobytes()
    assert picture.info["parameters"].startswith(
        "a red apple\nNegative prompt: blue\nSteps: 30, Sampler: none, CFG scale: 7.5, Seed: 7, Size: 64x64"
    )


async def test_many_at_once_each_get_their_own_file(gallery: Gallery) -> None:
    saved = await asyncio.gather(*(gallery.save(RESULT, "test") for _ in range(8)))
    assert len({picture.path for picture in saved}) == 8


async def test_one_that_was_removed_by_hand_is_not_found(gallery: Gallery) -> None:
    saved = await gallery.save(RESULT, "test")
    saved.path.unlink()
    with pytest.raises(NotFound):
        await gallery.file(saved.id)


async def test_a_folder_that_cannot_be_written_is_a_clear_error(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"in the way")
    with pytest.raises(StorageFailed, match="could not be saved"):
        await gallery.save(RESULT, "test")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "picture.png"
    write_atomically(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert file.read_bytes() == b"old"
