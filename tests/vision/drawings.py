"""Pictures drawn here, so that what is in them is known."""

import io
import math

from PIL import Image, ImageDraw


def clock() -> Image.Image:
    """A wall clock that an ImageNet classifier knows for one."""
    picture = Image.new("RGB", (400, 400), (220, 210, 190))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((50, 50, 350, 350), fill="white", outline="black", width=12)
    for hour in range(1, 13):
        x, y = 200 + 120 * math.sin(hour * math.pi / 6), 200 - 120 * math.cos(hour * math.pi / 6)
        draw.text((x - 12, y - 14), str(hour), fill="black", font_size=28)
    draw.line((200, 200, 200, 100), fill="black", width=8)
    draw.line((200, 200, 270, 230), fill="black", width=10)
    return picture


def plain(colour: str, width: int = 96, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def encoded(picture: Image.Image, format: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **how)
    return buffer.getvalue()
