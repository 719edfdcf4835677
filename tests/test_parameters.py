"""How a picture was made is written into its file, and read back from ours and from other tools'."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from illustrious.errors import EngineFailed
from illustrious.gallery.foreign import automatic1111
from illustrious.parameters import Parameters, compose, parse, read, render, write_png
from illustrious.pictures import open_picture
from illustrious.types import Hires, ImageRequest, Lora

REQUEST = ImageRequest(
    prompt="a lighthouse", negative_prompt="blurry", width=512, height=768, steps=20, guidance=7.0, seed=1
)


def test_the_text_is_the_web_uis() -> None:
    assert render(REQUEST, model="starter", sampler="Euler a", version="0.1.0") == (
        "a lighthouse\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768, Model: starter, Version: 0.1.0"
    )


def test_what_applies_is_said_in_the_web_uis_words() -> None:
    rich = ImageRequest(
        prompt="a lighthouse <lora:ink:0.8>", width=512, height=768, steps=20, guidance=7, seed=1, clip_skip=2,
        vae="sdxl.vae", tiling="both", loras=(Lora(name="ink", weight=0.8), Lora(name="line", text_weight=0.5)),
        hires=Hires(scale=1.5, steps=10, strength=0.4),
    )  # fmt: skip
    text = render(
        rich, model="wai", sampler="DPM++ 2M", version="1", schedule="Karras", model_hash="0123abcd",
        lora_hashes={"ink": "7c6b", "line": "ad76"},
    )  # fmt: skip
    assert text == (
        "a lighthouse <lora:ink:0.8> <lora:line:0.5:1>\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, "
        "Model hash: 0123abcd, Model: wai, VAE: sdxl.vae, Denoising strength: 0.4, Clip skip: 2, Tiling: True, "
        'Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Latent, Lora hashes: "ink: 7c6b, line: ad76", Version: 1'
    )
    found = automatic1111(text)
    assert (found.model_hash, found.lora_hashes) == ("0123abcd", {"ink": "7c6b", "line": "ad76"})
    assert (found.parameters["schedule"], found.parameters["clip_skip"]) == ("Karras", 2)


def test_a_picture_drawn_from_another_says_how_much_of_it_is_new() -> None:
    changed = REQUEST.model_copy(update={"init_image": b"picture", "mask": b"mask", "strength": 0.55, "mask_blur": 8})
    settings = parse(render(changed, model="m", sampler="s", version="1")).settings
    assert (settings["Denoising strength"], settings["Mask blur"]) == ("0.55", "8")
    assert "Denoising strength" not in parse(render(REQUEST, model="m", sampler="s", version="1")).settings
    sized = REQUEST.model_copy(update={"hires": Hires(width=1024, height=1536, upscaler="4x-UltraSharp")})
    settings = parse(render(sized, model="m", sampler="s", version="1")).settings
    assert (settings["Hires resize"], settings["Hires upscaler"]) == ("1024x1536", "4x-UltraSharp")
    assert "Hires upscale" not in settings


def test_a_picture_that_is_not_exact_says_how_it_was_drawn() -> None:
    fast = REQUEST.model_copy(update={"speed": "fast", "exact": False})
    assert parse(render(fast, model="m", sampler="s", version="1")).settings["Speed"] == "fast"
    assert "Speed" not in parse(render(REQUEST, model="m", sampler="s", version="1")).settings


def test_empty_prompts_leave_no_line() -> None:
    bare = REQUEST.model_copy(update={"prompt": "", "negative_prompt": ""})
    assert render(bare, model="m", sampler="Euler", version="1").startswith("Steps: 20, ")


def test_values_with_commas_colons_or_line_ends_are_json_strings() -> None:
    text = render(REQUEST, model='dreams, "v2": best\nof all', sampler="Euler", version="1")
    assert r'Model: "dreams, \"v2\": best\nof all", Version: 1' in text
    assert parse(text).settings["Model"] == 'dreams, "v2": best\nof all'


def test_another_tools_text_is_taken_apart() -> None:
    text = (
        "masterpiece, 1girl,\nlighthouse <lora:add_detail:0.8>\n"
        "Negative prompt: lowres,\nbad hands\n"
        "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 42, Size: 832x1216, "
        'Model hash: 0123abcd, Model: wai-v14, Clip skip: 2, Lora hashes: "add_detail: 7c6bad76eb54, x: 1", '
        "Version: v1.10.1\n"
    )
    parsed = parse(text)
    assert parsed.prompt == "masterpiece, 1girl,\nlighthouse <lora:add_detail:0.8>"
    assert parsed.negative_prompt == "lowres,\nbad hands"
    assert parsed.settings["Lora hashes"] == "add_detail: 7c6bad76eb54, x: 1"
    assert (parsed.settings["Seed"], parsed.settings["Version"]) == ("42", "v1.10.1")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", Parameters()),
        ("just a prompt", Parameters(prompt="just a prompt")),
        ("time: noon, place: sea", Parameters(prompt="time: noon, place: sea")),  # too few to be settings
        ("a cat\nNegative prompt: dog", Parameters(prompt="a cat", negative_prompt="dog")),
        ("Negative prompt: dog", Parameters(negative_prompt="dog")),
        (
            'a cat\nSteps: 9, broken, : , Title: "open, Seed: 1, CFG scale: 2',
            Parameters(prompt="a cat", settings={"Steps": "9", "Title": '"open', "Seed": "1", "CFG scale": "2"}),
        ),
    ],
)
def test_incomplete_texts_give_what_is_in_them(text: str, parsed: Parameters) -> None:
    assert parse(text) == parsed


def test_a_prompt_may_speak_of_settings() -> None:
    prompt = "Steps: 1, Sampler: none, Seed: 5\na sign that says Negative prompt: keep out"
    parsed = parse(render(REQUEST.model_copy(update={"prompt": prompt}), model="m", sampler="s", version="1"))
    assert (parsed.prompt, parsed.negative_prompt, parsed.settings["Steps"]) == (prompt, "blurry", "20")


def is_no_negative_line(prompt: str) -> bool:
    return not any(line.startswith("Negative prompt:") for line in prompt.split("\n"))


prompts = st.text().filter(is_no_negative_line) | st.lists(
    st.sampled_from(["Steps: 3, Seed: 4, Size: 5", " ", "\n", "a cat", "Negative prompt:", ":", ",", '"'])
).map("".join).filter(is_no_negative_line)


@given(
    prompt=prompts,
    negative=st.text() | prompts,
    settings=st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9 \-/]{1,12}", fullmatch=True), st.text(), min_size=3, max_size=8
    ),
)
def test_what_is_written_is_read_back(prompt: str, negative: str, settings: dict[str, str]) -> None:
    parameters = Parameters(prompt=prompt, negative_prompt=negative, settings=settings)
    assert parse(compose(parameters)) == parameters


@given(text=st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    parse(text)


def png(**how: object) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG", **how)
    return buffer.getvalue()


def reopened(data: bytes) -> Image.Image:
    return open_picture(data, max_pixels=1_000_000)


@pytest.mark.parametrize("text", ["a cat\nSteps: 1", "naïve café ÿ", "灯台 🗼\nNegative prompt: 曖昧", ""])
def test_a_png_carries_the_text_and_the_same_pixels(text: str) -> None:
    picture = reopened(write_png(png(), text))
    assert picture.info["parameters"] == text
    assert picture.tobytes() == reopened(png()).tobytes()


@pytest.mark.parametrize("text", ["a cat", "灯台"])
def test_the_file_is_the_one_pillow_itself_would_write(text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    assert write_png(png(), text) == png(pnginfo=info)


def test_an_earlier_text_is_replaced_and_other_texts_stay() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "old")
    info.add_text("Title", "kept")
    data = write_png(png(pnginfo=info), "new")
    assert b"old" not in data
    assert reopened(data).info == {"parameters": "new", "Title": "kept"}


@given(text=st.text(st.characters()))
def test_any_prompt_can_be_written(text: str) -> None:
    """Also one with a NUL character, which PNG forbids, or half a surrogate pair, which has no encoding."""
    found = reopened(write_png(png(), text)).info["parameters"]
    assert found == text.replace("\0", "").encode("utf-8", "replace").decode()


@pytest.mark.parametrize("data", [b"", b"GIF89a", png()[:40]])
def test_what_is_no_png_is_an_engines_mistake(data: bytes) -> None:
    with pytest.raises(EngineFailed):
        write_png(data, "text")


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "a café, 灯台\nSteps: 1".encode("utf-16-be"),
        b"UNICODE\0" + "a café, 灯台\nSteps: 1".encode("utf-16-le"),
        b"ASCII\0\0\0" + "a café, 灯台\nSteps: 1".encode(),
        bytes(8) + "a café, 灯台\nSteps: 1".encode() + b"\0",
    ],
)
def test_jpeg_and_webp_carry_it_in_exif(format: str, comment: bytes) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    exif[0x0112] = 6  # turned, too
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8)).save(buffer, format, exif=exif)
    assert read(reopened(buffer.getvalue())) == "a café, 灯台\nSteps: 1"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_that_says_nothing_about_itself(format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format)
    assert read(reopened(buffer.getvalue())) is None


def test_a_png_is_read_by_the_same_word() -> None:
    assert read(reopened(write_png(png(), "a cat"))) == "a cat"
