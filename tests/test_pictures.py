"""Bytes that people send become a checked picture, or one clear error."""

import base64
import io
import itertools
import os
import struct
import threading
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from illustrious.errors import InvalidRequest, StudioError, TooLarge
from illustrious.pictures import decode_base64, open_picture, to_rgb

MAX_PIXELS = 1_000_000
FORMATS = ["PNG", "JPEG", "WEBP", "GIF"]


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    return Image.merge(
        "RGB", (Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 90))
    ).resize((width, height))


def saved(picture: Image.Image, format: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_the_four_formats_are_opened_and_fully_read(format: str) -> None:
    picture = open_picture(saved(gradient(), format), MAX_PIXELS)
    assert picture.size == (48, 32)
    assert to_rgb(picture).mode == "RGB"


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "ICO", "PDF"])
def test_other_formats_are_refused_with_the_ones_that_will_do(format: str) -> None:
    with pytest.raises(InvalidRequest, match="PNG, JPEG, WebP or GIF"):
        open_picture(saved(gradient(), format), MAX_PIXELS)


@pytest.mark.parametrize("data", [b"", b"hello", b"RIFF", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"\xff\xd8\xff", b"GIF89a"])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="Send "):
        open_picture(data, MAX_PIXELS)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(format: str, kept: float) -> None:
    data = saved(gradient(128, 96), format)
    with pytest.raises(InvalidRequest, match="Send the whole file"):
        open_picture(data[: int(len(data) * kept)], MAX_PIXELS)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged EXIF
@settings(max_examples=60, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_bytes_give_a_picture_or_our_own_error_never_another(
    format: str, edits: list[tuple[float, int]]
) -> None:
    data = bytearray(saved(gradient(), format, **({"exif": rotated(6)} if format in {"JPEG", "PNG", "WEBP"} else {})))
    for place, value in edits:
        data[int(place * len(data))] = value
    try:
        to_rgb(open_picture(bytes(data), MAX_PIXELS))
    except StudioError as error:
        assert "Send" in str(error)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1001, 10_000, 14_000, 100_000])  # 14,000² is beyond Pillow's own limit as well
def test_too_many_pixels_are_refused_from_the_header_alone(side: int) -> None:
    with pytest.raises(TooLarge, match="1,000,000 pixels"):
        open_picture(png_claiming(side, side), MAX_PIXELS)  # there are no pixels in it: decoding would say "damaged"


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_formats_that_check_a_limit_of_their_own_give_the_same_error(format: str) -> None:
    data = bytearray(saved(gradient(8, 8), format, **({"lossless": True} if format == "WEBP" else {})))
    if format == "GIF":
        data[6:10] = struct.pack("<HH", 65_000, 65_000)
    else:
        data[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    with pytest.raises(TooLarge):
        open_picture(bytes(data), MAX_PIXELS)


@pytest.mark.filterwarnings("error")
def test_a_caller_may_allow_more_than_pillow_would_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # stands for a picture of 200 million pixels
    assert open_picture(saved(gradient(), "PNG"), MAX_PIXELS).size == (48, 32)


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (47, 31)), (6, (31, 0)), (8, (0, 47))])
def test_a_picture_stored_turned_comes_out_the_right_way_up(
    format: str, orientation: int, corner: tuple[int, int]
) -> None:
    stored = Image.new("RGB", (48, 32), "blue")
    stored.paste("red", (0, 0, 12, 12))  # red in the upper left as stored
    picture = open_picture(saved(stored, format, exif=rotated(orientation)), MAX_PIXELS)
    assert picture.size == ((48, 32) if orientation in {1, 3} else (32, 48))
    red, _, blue = to_rgb(picture).getpixel(corner)
    assert red > 200 > 60 > blue


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = saved(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff\xff")
    assert open_picture(data, MAX_PIXELS).size == (48, 32)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
    red, green, blue = to_rgb(open_picture(data, MAX_PIXELS)).getpixel((8, 8))
    assert red > 240 > 15 > max(green, blue)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_kind_of_png_becomes_rgb(mode: str) -> None:
    picture = to_rgb(open_picture(saved(gradient().convert(mode), "PNG"), MAX_PIXELS))
    assert (picture.mode, picture.size) == ("RGB", (48, 32))


def test_sixteen_bit_grey_keeps_its_range() -> None:
    deep = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 0x8000, 0xFFFF))
    picture = to_rgb(open_picture(saved(deep, "PNG"), MAX_PIXELS))
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_cmyk_keeps_its_colour() -> None:
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = to_rgb(open_picture(data, MAX_PIXELS)).getpixel((8, 8))
    assert red > 240 > 15 > max(green, blue)


def transparent_palette() -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    return saved(picture, "PNG", transparency=0)


def half_transparent() -> bytes:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255, 255))
    return saved(picture, "PNG")


@pytest.mark.parametrize("data", [transparent_palette(), half_transparent()])
def test_transparency_is_laid_over_white(data: bytes) -> None:
    picture = to_rgb(open_picture(data, MAX_PIXELS))
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@given(data=st.binary(min_size=1, max_size=200))
def test_base64_is_read_in_every_way_it_is_written(data: bytes) -> None:
    text = encoded(data)
    for written in (
        text,
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        "\r\n".join(text),
        f" data:image/png;base64,{text}\n",
        f"data:image/png;charset=utf-8;base64,{text}",
    ):
        assert decode_base64(written, max_bytes=len(data)) == data


def test_a_large_text_is_put_together_from_its_stretches() -> None:
    data = os.urandom(4_000_003)
    assert decode_base64(encoded(data), len(data)) == data
    assert decode_base64(base64.encodebytes(data).decode(), len(data)) == data


@pytest.mark.parametrize(
    "text",
    ["", " \n", "data:image/png;base64,", "====", "A", "AAAA*", "AAé=", "YQ==YQ==", "YQ===", "data:image/png,AAAA"],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="base64"):
        decode_base64(text, max_bytes=100)


def test_padding_in_the_middle_is_refused_wherever_a_stretch_ends() -> None:
    text = "A" * (1 << 20)
    with pytest.raises(InvalidRequest, match="base64"):
        decode_base64(text[:-2] + "==" + text, max_bytes=1 << 22)


def test_the_byte_limit_counts_bytes_not_characters() -> None:
    text = base64.encodebytes(bytes(300)).decode()
    assert decode_base64(text, max_bytes=300) == bytes(300)
    with pytest.raises(TooLarge, match="300 bytes; the limit is 299"):
        decode_base64(text, max_bytes=299)


def test_too_many_bytes_are_refused_before_anything_is_decoded() -> None:
    with pytest.raises(TooLarge):
        decode_base64("*" * 1000, max_bytes=100)  # decoding would say: not base64


def test_other_threads_go_on_while_a_large_upload_is_decoded() -> None:
    """The event loop's thread is one of them. Measured against decoding in one call, in this same run."""
    text = encoded(os.urandom(20_000_000))

    def largest_stall(decode: object) -> float:
        beats = [time.perf_counter()]
        finished = threading.Event()

        def beat() -> None:
            while not finished.wait(0.0005):
                beats.append(time.perf_counter())

        thread = threading.Thread(target=beat)
        thread.start()
        assert callable(decode)
        decode()
        finished.set()
        thread.join()
        beats.append(time.perf_counter())
        return max(later - earlier for earlier, later in itertools.pairwise(beats))

    ours = min(largest_stall(lambda: decode_base64(text, 30_000_000)) for _ in range(3))
    whole = min(largest_stall(lambda: base64.b64decode(text)) for _ in range(3))
    assert ours < whole / 2
