"""Small WebP copies, made when first asked for and kept under cache/thumbnails, which may be deleted at any time."""

import hashlib
import io
import shutil
from pathlib import Path

from PIL import Image

from illustrious.errors import InvalidRequest, NotFound, StorageFailed, TooLarge
from illustrious.gallery.files import write_atomically
from illustrious.pictures import open_picture, to_rgb

SMALLEST, LARGEST = 16, 1024
KEPT_SIZES = (64, 128, 256, 512, 1024)
"""Other sizes are made anew each time, so that nobody can fill the disk by asking for all of them."""

QUALITY = 80
MAX_PIXELS = 100_000_000


def thumbnail(picture: Path, image_id: str, size: int, cache: Path) -> bytes:
    """The WebP file of the picture within ``size``×``size`` pixels (held between 16 and 1024), never enlarged.

    Raises ``NotFound`` when the picture is gone or damaged, ``StorageFailed`` when the cache cannot be written.
    """
    size = min(max(size, SMALLEST), LARGEST)
    try:
        stat = picture.stat()
        kept = folder_of(image_id, cache) / f"{size}-{stat.st_mtime_ns:x}-{stat.st_size:x}.webp"
        if kept.is_file():
            return kept.read_bytes()
        small = _shrink(picture.read_bytes(), size)
    except FileNotFoundError as error:
        raise NotFound(f"The file of the picture {image_id!r} is gone; it may have been moved or deleted.") from error
    except (InvalidRequest, TooLarge) as error:
        raise NotFound(
            f"The file of the picture {image_id!r} is damaged, so there is no small copy. Replace it or delete it."
        ) from error
    if size in KEPT_SIZES:
        try:
            write_atomically(kept, small)
        except OSError as error:
            raise StorageFailed(
                f"A small copy could not be saved in {cache}: {error.strerror}. "
                "Free some space or mend the folder's permissions, then try again."
            ) from error
    return small


def forget(image_id: str, cache: Path) -> None:
    shutil.rmtree(folder_of(image_id, cache), ignore_errors=True)


def folder_of(image_id: str, cache: Path) -> Path:
    """One folder for each picture, in 256 others: no folder grows past what a file system likes."""
    return cache / hashlib.sha256(image_id.encode()).hexdigest()[:2] / image_id


def _shrink(data: bytes, size: int) -> bytes:
    image = open_picture(data, MAX_PIXELS)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA") if image.has_transparency_data else to_rgb(image)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
