"""What can be measured in a picture, on pictures whose facts are known."""

import math
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from illustrious.vision.facts import COLOURS, dominant_colours, measure, names, oklab
from tests.vision.drawings import clock, plain


@pytest.mark.parametrize(
    ("srgb", "lab"),
    [
        # the values of the definition, as CSS Color 4 gives them for these colours
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_is_the_published_one(srgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    assert oklab(srgb) == pytest.approx(lab, abs=2e-4)


def test_every_colour_is_called_by_its_own_name() -> None:
    assert names(list(COLOURS.values())) == list(COLOURS)


@pytest.mark.parametrize(
    ("css", "name"),
    [
        ("red", "red"), ("blue", "blue"), ("yellow", "yellow"), ("cyan", "cyan"), ("magenta", "magenta"),
        ("maroon", "dark red"), ("navy", "navy"), ("saddlebrown", "brown"), ("skyblue", "light blue"),
        ("darkgreen", "dark green"), ("orange", "orange"), ("olivedrab", "olive"), ("rebeccapurple", "purple"),
        ("#080808", "black"), ("#303030", "dark grey"), ("#707070", "grey"), ("#c8c8c8", "light grey"),
        ("#fdfdfd", "white"),
    ],
)  # fmt: skip
def test_colours_are_called_as_people_call_them(css: str, name: str) -> None:
    assert dominant_colours(plain(css))[0].name == name


def test_a_grey_picture_has_only_greys_in_it() -> None:
    facts = measure(Image.linear_gradient("L").convert("RGB"))
    assert {colour.name for colour in facts.colours} <= {"black", "dark grey", "grey", "light grey", "white"}
    assert not facts.colourful


def test_colours_come_with_their_share_of_the_picture() -> None:
    picture = plain("white", 100, 100)
    picture.paste("red", (0, 0, 100, 30))
    picture.paste("blue", (0, 98, 100, 100))  # two percent: not worth a word
    colours = measure(picture).colours
    assert [colour.name for colour in colours] == ["white", "red"]
    assert [colour.share for colour in colours] == pytest.approx([0.68, 0.30], abs=0.005)


@pytest.mark.parametrize(
    ("size", "orientation"),
    [((64, 96), "portrait"), ((96, 64), "landscape"), ((100, 101), "square"), ((1, 1), "square")],
)
def test_orientation(size: tuple[int, int], orientation: str) -> None:
    assert measure(Image.new("RGB", size)).orientation == orientation


def test_light_and_contrast() -> None:
    black, white = measure(plain("black")), measure(plain("white"))
    assert (black.lightness, white.lightness) == pytest.approx((0.0, 1.0), abs=1e-3)
    assert black.contrast == white.contrast == 0.0
    halves = plain("black")
    halves.paste("white", (0, 0, 48, 64))
    assert measure(halves).contrast == pytest.approx(1.0, abs=1e-3)
    assert measure(halves).lightness == pytest.approx(0.5, abs=1e-3)


def test_a_blurred_copy_is_less_sharp_than_the_picture() -> None:
    sharp, soft, blurred = (measure(clock().filter(ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 2, 6))
    assert sharp is not None and soft is not None and blurred is not None
    assert sharp > 0.5 > soft > blurred
    assert blurred < 0.12


def test_sharpness_is_not_told_where_there_is_no_edge() -> None:
    assert measure(plain("green")).sharpness is None


@pytest.mark.parametrize(
    ("place", "focus"),
    [((5, 5), "top left"), ((40, 40), "centre"), ((75, 40), "middle right"), ((40, 75), "bottom middle")],
)
def test_focus_is_where_the_detail_is(place: tuple[int, int], focus: str) -> None:
    picture = plain("white", 99, 99)
    ImageDraw.Draw(picture).ellipse((*place, place[0] + 18, place[1] + 18), fill="red")
    facts = measure(picture)
    assert (facts.focus, facts.background) == (focus, "white")


def test_a_strip_of_detail_is_a_third() -> None:
    picture = plain("white", 99, 99)
    for x in range(4, 96, 8):
        ImageDraw.Draw(picture).rectangle((x, 74, x + 3, 90), fill="black")
    assert measure(picture).focus == "bottom third"


def test_detail_everywhere_has_no_focus_and_no_background() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
    facts = measure(noise)
    assert (facts.focus, facts.background) == (None, None)
    assert facts.detail > 0.5


def test_a_large_picture_costs_no_more_than_a_small_one() -> None:
    """Measured on a copy of at most 512 pixels a side: 36 million pixels would take seconds."""

    def fastest(picture: Image.Image) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            measure(picture)
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(clock().resize((6000, 6000))) < 10 * fastest(clock().resize((512, 512)))
    assert math.isclose(measure(clock().resize((2000, 2000))).lightness, measure(clock()).lightness, abs_tol=0.02)
