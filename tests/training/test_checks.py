import numpy as np
import pytest
from PIL import Image, ImageDraw
from training.checks import ground_colour, thing_colour, things
from training.colours import COLOURS
from training.icons import Pixels


def discs(colour: str, ground: str, *centres: tuple[int, int], radius: int = 12) -> Pixels:
    picture = Image.new("RGB", (64, 64), COLOURS[ground])
    for x, y in centres:
        ImageDraw.Draw(picture).circle((x, y), radius, fill=COLOURS[colour])
    return np.asarray(picture)


@pytest.mark.parametrize("ground", COLOURS)
def test_the_background_is_told_though_a_thing_covers_most_of_it(ground: str) -> None:
    thing = "red" if ground != "red" else "blue"
    assert ground_colour(discs(thing, ground, (32, 32), radius=31)) == ground


@pytest.mark.parametrize("colour", [colour for colour in COLOURS if colour != "white"])
def test_the_things_colour_is_told_from_the_backgrounds(colour: str) -> None:
    assert thing_colour(discs(colour, "white", (32, 32))) == colour


@pytest.mark.parametrize("centres", [[(32, 32)], [(17, 32), (47, 32)], [(17, 18), (47, 18), (32, 47)]], ids=len)
def test_things_of_about_one_size_are_counted(centres: list[tuple[int, int]]) -> None:
    assert things(discs("green", "yellow", *centres)) == len(centres)


def test_dirt_is_not_counted_and_nothing_is_none() -> None:
    picture = discs("green", "white", (32, 32)).copy()
    picture[2:4, 2:4] = 0
    assert things(picture) == 1
    assert things(discs("green", "white")) == 0
