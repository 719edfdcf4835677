"""Pictures as PNG, JPEG and WebP files with their parameters in them, where other tools look for them.

In a PNG that is a text chunk ``parameters``; in JPEG and WebP EXIF's UserComment in UTF-16, as AUTOMATIC1111 writes it
(EXIF 2.3, table 9: the character code ``UNICODE``, here big-endian like the EXIF block around it).
"""

import hashlib
import io
import struct
from typing import Literal

from PIL import ExifTags, Image

from illustrious import parameters
from illustrious.errors import InvalidRequest
from illustrious.pictures import to_rgb

Format = Literal["png", "jpeg", "webp"]

SUFFIX: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
MEDIA_TYPE: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
QUALITY = 95


def encode(image: Image.Image, format: Format, text: str) -> bytes:
    """The file. PNG keeps the pixels exactly; JPEG has no transparency (white shows through).

    Raises ``InvalidRequest`` when ``text`` is longer than the format can hold (JPEG: some 32,000 characters).
    """
    buffer = io.BytesIO()
    if format == "png":
        image.save(buffer, "PNG")
        return parameters.write_png(buffer.getvalue(), text)
    exif = _exif(b"UNICODE\0" + text.replace("\0", "").encode("utf-16-be", "replace"))
    try:
        if format == "jpeg":
            to_rgb(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0, exif=b"Exif\0\0" + exif)
        else:
            image.save(buffer, "WEBP", quality=QUALITY, exif=exif)
    except ValueError as error:
        raise InvalidRequest(
            "The prompt is too long to be kept in a JPEG file. Shorten it, or save the picture as PNG or WebP."
        ) from error
    return buffer.getvalue()


def _exif(comment: bytes) -> bytes:
    """An EXIF block with a UserComment alone: a TIFF header (big-endian), a directory that points to the EXIF
    directory, and that with its one entry (TIFF 6.0, section 2). Pillow's own writer gives the comment the type BYTE
    where EXIF asks for UNDEFINED, and some readers then cannot read it."""
    long, undefined = 4, 7
    head = struct.pack(">2sHL", b"MM", 42, 8)
    first = struct.pack(">HHHLLL", 1, ExifTags.IFD.Exif, long, 1, 26, 0)
    second = struct.pack(">HHHLLL", 1, ExifTags.Base.UserComment, undefined, len(comment), 44, 0)
    return head + first + second + comment


def digest(image: Image.Image) -> str:
    """SHA-256 of the pixels as plain RGB, row by row: the same picture has the same in whichever lossless file."""
    return hashlib.sha256(to_rgb(image).tobytes()).hexdigest()
