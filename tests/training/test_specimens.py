import numpy as np
import pytest
from training.colours import nearest
from training.compose import held_out
from training.icons import Icon
from training.specimens import SEVERAL, Shares, Specimens, kept_apart, nothing, worn

from tests.training.tiny import icons

NAMES = {"red apple": "apple", "house": "house", "frog": "frog"}
NONE = dict.fromkeys(Shares().kinds, 0.0)


def specimens(unseen: bool = False, **shares: float) -> Specimens:
    only = Shares(**{**NONE, **(shares or {"single": 1}), "worn": 0.0})  # type: ignore[arg-type]
    return Specimens(icons(64), NAMES, 64, only, 0, NAMES, unseen)


def test_a_number_gives_the_same_specimen_whoever_asks() -> None:
    for index in range(5):
        one, other = (Specimens(icons(), NAMES, 16, Shares(), 3, NAMES).specimen(index) for _ in range(2))
        assert one.truth == other.truth
        assert np.array_equal(one.pixels, other.pixels)


def test_what_the_truth_says_is_what_the_picture_shows() -> None:
    for index in range(20):
        made = specimens().specimen(index)
        (thing,) = made.truth.things
        assert thing in NAMES.values()
        assert made.truth.colour in {nearest(colour) for colour in np.unique(made.pixels.reshape(-1, 3), axis=0)}
        if made.truth.ground != SEVERAL:
            assert nearest(made.pixels[:2, :2].reshape(-1, 3).mean(axis=0)) == made.truth.ground


@pytest.mark.parametrize("unseen", [False, True])
def test_combinations_kept_for_measuring_are_drawn_when_measuring_alone(unseen: bool) -> None:
    label = {thing: label for label, thing in NAMES.items()}
    own = {"apple": "red", "house": "blue", "frog": "green"}
    truths = [specimens(unseen, single=1, painted=1).specimen(index).truth for index in range(60)]
    painted = [(truth.things[0], truth.colour) for truth in truths if truth.colour != own[truth.things[0]]]
    assert painted
    assert all(held_out("colour", label[thing], str(colour)) == unseen for thing, colour in painted)


def test_two_different_things_are_both_told() -> None:
    pairs = [specimens(pair=1).specimen(index).truth for index in range(20)]
    assert {2} == {len(truth.things) for truth in pairs if truth.amount == "different"}


def test_a_picture_of_nothing_has_nothing_in_it() -> None:
    truth = specimens(nothing=1).specimen(0).truth
    assert truth.things == ()
    assert truth.colour is truth.ground is truth.amount is None
    random = np.random.default_rng(0)
    pictures = [nothing(random, 32) for _ in range(20)]
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 20


def test_a_worn_picture_is_still_the_picture() -> None:
    random = np.random.default_rng(0)
    whole = specimens().specimen(0).pixels
    for _ in range(20):
        after = worn(whole, random)
        assert after.shape == whole.shape
        assert np.abs(after.astype(int) - whole).mean() < 25


def test_drawings_are_kept_apart_only_of_things_that_are_learned_in_the_main_style() -> None:
    others = [Icon(icon.label, (), style, icon.pixels) for icon in icons() for style in ("noto", "noto-v1", "fxemoji")]
    alone = Icon("dragon", (), "noto", others[0].pixels)
    learned, kept = kept_apart([*icons(), *others, alone], {**NAMES, "dragon": "dragon"}, "twemoji")
    assert len(learned) + len(kept) == 13
    assert kept
    assert "twemoji" not in {icon.style for icon in kept}
    assert alone in learned
