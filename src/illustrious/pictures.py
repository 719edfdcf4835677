"""Pictures that people send: base64 to bytes, bytes to a checked picture, any kind of pixels to plain RGB.

Everything here blocks; callers on an event loop use ``asyncio.to_thread``.
"""

import binascii
import io
import re
import struct
import zlib

from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from illustrious.errors import InvalidRequest, TooLarge

# Opened by their own classes, not by Image.open: that one applies Pillow's process-wide MAX_IMAGE_PIXELS, as a warning
# from one size on and as an error from twice that, where the limit here is the caller's and is always an error.
FORMATS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"GIF8", GifImageFile),
    (b"RIFF", WebPImageFile),
)

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow raises at bytes that are no picture, or only part of one."""

NOT_A_PICTURE = "This is not an image the studio can read. Send a PNG, JPEG, WebP or GIF file."
BROKEN = "This image is damaged or incomplete. Send the whole file, or save it anew in an image editor."


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """The picture in ``data``, all of it read, the right way up (EXIF orientation applied), in the mode it came in.

    PNG, JPEG, WebP or GIF, told by content; of an animation the first frame. ``info`` keeps what the file says about
    itself. Raises ``TooLarge`` from the header alone, before a pixel is decoded, and ``InvalidRequest`` for anything
    that is not a whole picture.
    """
    opener = next((opener for prefix, opener in FORMATS if data.startswith(prefix)), None)
    if opener is None:
        raise InvalidRequest(NOT_A_PICTURE)
    too_many = f"This image has more than {max_pixels:,} pixels, the limit here. Send a smaller one."
    try:
        picture = opener(io.BytesIO(data))
    except Image.DecompressionBombError as error:  # GIF and WebP apply Pillow's own limit while opening
        raise TooLarge(too_many) from error
    except DAMAGED as error:
        raise InvalidRequest(BROKEN) from error
    if picture.width * picture.height > max_pixels:
        raise TooLarge(too_many)
    try:
        picture.load()
    except DAMAGED as error:
        raise InvalidRequest(BROKEN) from error
    try:
        return ImageOps.exif_transpose(picture)
    except DAMAGED:  # the pixels are whole; only what is written about them is not
        return picture.copy()


def to_rgb(picture: Image.Image) -> Image.Image:
    """Plain RGB, eight bits a channel: palettes looked up, CMYK and 16-bit grey converted, transparency over white."""
    if picture.mode.startswith("I"):  # grey 0 … 65535; convert("L") alone would clip it at 255
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        picture.info.pop("transparency", None)  # it counted in sixteen bits
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


DATA_URL = re.compile(r"\s*data:[^,]{0,200}?;base64,", re.IGNORECASE)
WHITESPACE = " \t\r\n"
URL_SAFE = bytes.maketrans(b"-_", b"+/")
STRETCH = 1 << 20
"""Characters decoded at a time. The interpreter lock is held for one stretch only (some two milliseconds), so that
a large upload decoded in a thread does not stop the event loop's."""

UNDECODABLE = "This is not valid base64. Send the image file's bytes in base64, with or without a data: prefix."
EMPTY = "There is no image here: the base64 text is empty. Send the image file's bytes in base64."


def decode_base64(text: str, max_bytes: int) -> bytes:
    """The bytes of base64 ``text`` (RFC 4648), with or without a ``data:…;base64,`` prefix.

    Spaces and line ends are skipped, the URL-safe alphabet is read like the standard one, and padding may be left out.
    Raises ``TooLarge`` before decoding, and ``InvalidRequest`` for anything else that is not base64, also when nothing
    is there.
    """
    prefix = DATA_URL.match(text)
    start = prefix.end() if prefix else 0
    if len(text) * 3 // 4 > max_bytes and (size := _decoded_size(text, start)) > max_bytes:
        raise TooLarge(f"This image has {size:,} bytes; the limit is {max_bytes:,}. Send a smaller one.")
    decoded = io.BytesIO()
    carried = b""
    ended = False
    try:
        for position in range(start, len(text), STRETCH):
            stretch = text[position : position + STRETCH].encode("ascii")
            carried += stretch.translate(URL_SAFE, WHITESPACE.encode())
            whole = len(carried) // 4 * 4
            groups, carried = carried[:whole], carried[whole:]
            if ended and groups:
                raise InvalidRequest(UNDECODABLE)
            ended = ended or b"=" in groups
            decoded.write(binascii.a2b_base64(groups, strict_mode=True))
        if ended and carried:
            raise InvalidRequest(UNDECODABLE)
        decoded.write(binascii.a2b_base64(carried + b"=" * (-len(carried) % 4), strict_mode=True))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(UNDECODABLE) from error
    if not decoded.tell():
        raise InvalidRequest(EMPTY)
    return decoded.getvalue()


def _decoded_size(text: str, start: int) -> int:
    """How many bytes the base64 characters from ``start`` on stand for, found by counting those that stand for none."""
    begins = range(start, len(text), STRETCH)
    idle = sum(text.count(character, begin, begin + STRETCH) for begin in begins for character in WHITESPACE + "=")
    return (len(text) - start - idle) * 3 // 4
