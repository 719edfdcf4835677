import pytest
from training.colours import COLOURS, main_colour, nearest, painted
from training.icons import draw

from tests.training.tiny import DISC, SQUARE, svg

FACE = '<circle cx="16" cy="16" r="14" fill="#ffdc5d"/><circle cx="11" cy="13" r="3" fill="#222"/>'
ELEPHANT = '<circle cx="16" cy="16" r="14" fill="#99aab5"/>'


@pytest.mark.parametrize("name", COLOURS)
def test_each_colour_goes_by_its_own_name(name: str) -> None:
    assert nearest(COLOURS[name]) == name


@pytest.mark.parametrize("body", [DISC, SQUARE, ELEPHANT])
@pytest.mark.parametrize("name", COLOURS)
def test_a_painted_icon_has_the_colour_it_was_painted_in(body: str, name: str) -> None:
    changed = painted(draw(svg(body), 32), COLOURS[name])
    assert nearest(changed[16, 16, :3]) == name


def test_painting_leaves_outlines_and_eyes() -> None:
    icon = draw(svg(FACE), 64)
    changed = painted(icon, COLOURS["blue"])
    assert tuple(changed[26, 22, :3]) == (0x22, 0x22, 0x22)
    assert main_colour(changed)[0] == "blue"


def test_the_main_colour_says_how_much_of_the_icon_has_it() -> None:
    half = '<rect width="32" height="16" fill="#52a53c"/><rect y="16" width="32" height="16" fill="#222"/>'
    colour, share = main_colour(draw(svg(half), 32))
    assert colour == "green"
    assert share == pytest.approx(0.5, abs=0.05)
