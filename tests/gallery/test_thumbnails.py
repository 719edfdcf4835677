"""Small copies: made once, never larger than the picture, made anew when it changed."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from illustrious.errors import NotFound, StorageFailed
from illustrious.gallery.thumbnails import forget, thumbnail


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.radial_gradient("L").resize((300, 200)).save(file)
    return file


def size_of(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image.size


@pytest.mark.parametrize(
    ("asked", "given"), [(150, (150, 100)), (256, (256, 171)), (1, (16, 11)), (-5, (16, 11)), (9999, (300, 200))]
)
def test_it_fits_and_is_never_enlarged(picture: Path, tmp_path: Path, asked: int, given: tuple[int, int]) -> None:
    assert size_of(thumbnail(picture, "a", asked, tmp_path / "cache")) == given


def test_it_is_made_once(picture: Path, tmp_path: Path) -> None:
    first = thumbnail(picture, "a", 128, tmp_path / "cache")
    [kept] = (tmp_path / "cache").rglob("*.webp")
    kept.write_bytes(b"from the cache")
    assert thumbnail(picture, "a", 128, tmp_path / "cache") == b"from the cache" != first


def test_a_changed_picture_gets_a_new_one(picture: Path, tmp_path: Path) -> None:
    thumbnail(picture, "a", 128, tmp_path / "cache")
    Image.new("RGB", (10, 10)).save(picture)
    os.utime(picture, (1, 1))  # older than the copy
    assert size_of(thumbnail(picture, "a", 128, tmp_path / "cache")) == (10, 10)


def test_odd_sizes_do_not_fill_the_disk(picture: Path, tmp_path: Path) -> None:
    for size in range(60, 70):
        thumbnail(picture, "a", size, tmp_path / "cache")
    assert len([*(tmp_path / "cache").rglob("*.webp")]) == 1  # of 64


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (40, 40)).save(file)
    assert size_of(thumbnail(file, "a", 32, tmp_path / "cache")) == (32, 32)


def test_transparency_is_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "a.png")
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "a.png", "a", 32, tmp_path / "cache")))
    assert small.convert("RGBA").getpixel((5, 5))[3] == 0


def test_what_is_gone_or_damaged_is_not_found(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone"):
        thumbnail(tmp_path / "none.png", "a", 64, tmp_path / "cache")
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(NotFound, match="damaged"):
        thumbnail(picture, "a", 64, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_a_clear_error(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    with pytest.raises(StorageFailed, match="small copy"):
        thumbnail(picture, "a", 64, tmp_path / "cache")


def test_forgotten_with_its_picture_and_no_other(picture: Path, tmp_path: Path) -> None:
    for image_id in ("a", "a-1"):
        thumbnail(picture, image_id, 64, tmp_path / "cache")
    forget("a", tmp_path / "cache")
    forget("never seen", tmp_path / "cache")
    [left] = (tmp_path / "cache").rglob("*.webp")
    assert left.parent.name == "a-1"
