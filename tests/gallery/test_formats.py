"""Each format keeps the parameters where other tools look for them: asked of those tools themselves."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from illustrious import parameters
from illustrious.errors import InvalidRequest
from illustrious.gallery.foreign import read
from illustrious.gallery.formats import Format, digest, encode
from illustrious.pictures import open_picture
from illustrious.types import Hires, ImageRequest

FORMATS: list[Format] = ["png", "jpeg", "webp"]
TEXT = parameters.render(
    ImageRequest(
        prompt="a château, 海の城", negative_prompt="blurry", seed=42, steps=20, width=48, height=32,
        clip_skip=2, hires=Hires(),
    ),
    model="wai-v14", sampler="Euler a", version="Illustrious AI Studio 1",
    schedule="Karras", model_hash="0123abcd", lora_hashes={"ink": "7c6bad76eb54", "line": "11"},
)  # fmt: skip
PICTURE = Image.radial_gradient("L").resize((48, 32)).convert("RGB")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read(format: Format) -> None:
    picture = open_picture(encode(PICTURE, format, TEXT), 10_000)
    assert picture.size == (48, 32)
    recipe = read(picture)
    assert recipe is not None
    assert (recipe.tool, recipe.prompt, recipe.negative_prompt) == ("studio", "a château, 海の城", "blurry")
    assert (recipe.seed, recipe.model) == (42, "wai-v14")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_text_survives_in_exif(text: str) -> None:
    written = encode(PICTURE, "webp", "Steps" + text)  # plain letters tell the byte order, as any real text has them
    assert parameters.read(Image.open(io.BytesIO(written))) == "Steps" + text


def test_png_keeps_every_pixel_and_transparency() -> None:
    picture = PICTURE.convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    assert Image.open(io.BytesIO(encode(picture, "png", TEXT))).tobytes() == picture.tobytes()


def test_jpeg_shows_white_through() -> None:
    nothing = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert Image.open(io.BytesIO(encode(nothing, "jpeg", TEXT))).getpixel((8, 8)) == (255, 255, 255)


def test_a_prompt_that_jpeg_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="PNG or WebP"):
        encode(PICTURE, "jpeg", "x" * 40_000)
    assert parameters.read(Image.open(io.BytesIO(encode(PICTURE, "webp", "x" * 40_000)))) == "x" * 40_000


def test_the_digest_is_of_the_pixels_alone() -> None:
    assert digest(PICTURE) == digest(Image.open(io.BytesIO(encode(PICTURE, "png", TEXT))))
    other = PICTURE.copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert digest(PICTURE) != digest(other)


@pytest.mark.parametrize("format", FORMATS)
def test_sd_parsers_reads_it(format: Format) -> None:
    sd_parsers = pytest.importorskip("sd_parsers")
    found = sd_parsers.ParserManager().parse(Image.open(io.BytesIO(encode(PICTURE, format, TEXT))))
    assert found is not None
    assert found.generator.value == "AUTOMATIC1111"
    assert (found.full_prompt, found.full_negative_prompt) == ("a château, 海の城", "blurry")
    [sampler] = found.samplers
    assert (sampler.name, sampler.parameters["scheduler"], sampler.parameters["seed"]) == ("Euler a", "Karras", "42")
    assert (sampler.model.name, sampler.model.hash) == ("wai-v14", "0123abcd")


@pytest.mark.parametrize("format", FORMATS)
def test_sd_prompt_reader_reads_it(format: Format, tmp_path: Path) -> None:
    reader = pytest.importorskip("sd_prompt_reader.image_data_reader")  # its window is not needed for this
    file = tmp_path / "picture"
    file.write_bytes(encode(PICTURE, format, TEXT))
    found = reader.ImageDataReader(str(file))
    assert found.status.name == "READ_SUCCESS"
    assert (found.positive, found.negative) == ("a château, 海の城", "blurry")
    assert (found.parameter["seed"], found.parameter["model"], found.parameter["size"]) == ("42", "wai-v14", "48x32")
