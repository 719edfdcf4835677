"""The shipped captioner on fixed pictures: a style it never learned from, drawings, and pictures of nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from illustrious.vision.classifier import DRAWING_SIDE, crop
from illustrious.vision.classifier.captioner import Answers, CaptionerConfig, Reader, interpret
from illustrious.vision.drawing import Drawing, Thing, described, is_said
from tests.vision.drawings import clock, plain

PICTURES = Path(__file__).parent / "pictures"

BOTH = ["fox", "owl", "penguin", "elephant", "strawberry", "pizza", "mushroom", "rocket", "car", "guitar"]
FLUENT, STARTER = [*BOTH, "umbrella", "heart"], [*BOTH, "cat", "heart"]
GROUNDS = ["white", "blue", "yellow", "green"] * 3


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def seen(reader: Reader, picture: Image.Image) -> Drawing:
    return reader.read(crop(picture.convert("RGB"), DRAWING_SIDE).tobytes())


def tiles(reader: Reader, sheet: str) -> list[Drawing]:
    with Image.open(PICTURES / sheet) as opened:
        whole = opened.convert("RGB")
    places = [(x, y) for y in range(0, whole.height, 64) for x in range(0, whole.width, 64)]
    return [seen(reader, whole.crop((x, y, x + 64, y + 64))) for x, y in places]


@pytest.mark.parametrize(
    ("sheet", "things", "best", "among_five"),
    [
        ("fluent.png", FLUENT, 8, 10),
        ("starter.webp", STARTER, 8, 10),
    ],
)
def test_it_names_most_of_twelve_pictures(
    reader: Reader, sheet: str, things: list[str], best: int, among_five: int
) -> None:
    told = [[guess.thing.one for guess in drawing.guesses] for drawing in tiles(reader, sheet)]
    assert sum(guesses[0] == thing for guesses, thing in zip(told, things, strict=True)) >= best
    assert sum(thing in guesses for guesses, thing in zip(told, things, strict=True)) >= among_five


@pytest.mark.parametrize(("sheet", "right"), [("fluent.png", 10), ("starter.webp", 8)])
def test_it_names_the_backgrounds(reader: Reader, sheet: str, right: int) -> None:
    told = [drawing.ground.word for drawing in tiles(reader, sheet)]
    assert sum(word == ground for word, ground in zip(told, GROUNDS, strict=True)) >= right


def test_what_it_says_outright_is_right_and_it_says_little_so(reader: Reader) -> None:
    told = list(zip(tiles(reader, "fluent.png") + tiles(reader, "starter.webp"), FLUENT + STARTER, strict=True))
    said = [drawing.guesses[0].thing.one == thing for drawing, thing in told if is_said(drawing)]
    assert 4 <= len(said) <= 16
    assert np.mean(said) >= 0.85


def told(things: list[float], amount: list[float]) -> str:
    """What is said of a picture in which a network sees these shares: of a fox, a rocket, an owl and nothing; of one
    thing, two alike and two that differ."""
    config = CaptionerConfig(
        things=tuple(Thing(one=noun, many=f"{noun}s", kind="an animal") for noun in ("fox", "rocket", "owl")),
        colours=("red",),
        grounds=("blue",),
        amounts=("one", "two", "different"),
        sure_from=0.649,
    )
    shares = (things, [1.0], [1.0], amount)
    (drawing,) = interpret(Answers(*(torch.tensor([share]).log() for share in shares)), config)
    return described(drawing)


def test_two_things_are_said_outright_only_where_there_surely_are_two() -> None:
    assert "a fox and a rocket on a blue background (90%)" in told([0.5, 0.4, 0.05, 0.05], [0.1, 0.1, 0.8])
    perhaps_one = told([0.6, 0.05, 0.01, 0.34], [0.34, 0.31, 0.35])
    assert perhaps_one.endswith("is unsure of which. Perhaps a fox (60%).")
    no_second = told([0.6, 0.05, 0.01, 0.34], [0.1, 0.1, 0.8])
    assert no_second.endswith("is unsure of which. Perhaps a fox (60%).")


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8))


def run(seed: int) -> Image.Image:
    """Four colours that run into one another."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((200, 200), Image.Resampling.BICUBIC)


def foliage(seed: int) -> Image.Image:
    """Greens and browns at several scales, as a photograph of leaves has."""
    random = np.random.default_rng(seed)
    layers = [random.normal(0, 1, (side, side)) for side in (4, 8, 16, 32, 64, 128)]
    total = sum(np.asarray(Image.fromarray(layer).resize((256, 256), Image.Resampling.BICUBIC)) for layer in layers)
    light = (total - total.min()) / np.ptp(total)
    pixels = np.array([40, 45, 20]) + light[..., None] * np.array([120, 140, 80])
    return Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize(
    "picture",
    [noise(1), noise(2), run(1), run(2), run(3), foliage(1), foliage(2), foliage(3), plain("red"), plain("black")],
)
def test_it_says_nothing_outright_of_a_picture_of_nothing(reader: Reader, picture: Image.Image) -> None:
    assert not is_said(seen(reader, picture))


def test_the_same_pixels_give_the_same_answer(reader: Reader) -> None:
    assert seen(reader, clock()) == seen(reader, clock())
    assert seen(reader, clock()) != seen(reader, plain("red"))
