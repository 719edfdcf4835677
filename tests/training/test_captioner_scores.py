"""What the captioner is measured on: what is learned from and what is not are told apart."""

from training.captioner_scores import mixtures
from training.icons import Icon
from training.specimens import SCENE_ICONS, SCENE_THINGS, Shares, Specimens

from tests.training.tiny import icons

SHAPE = icons(32)[0].pixels
STYLE = [Icon(label, (), "fluent-flat", SHAPE) for label in sorted(SCENE_ICONS | {"fox", "owl"})]


def things(row: str) -> list[str]:
    """What is in the first 200 pictures of a row."""
    shares, _ = mixtures("fluent-flat", Shares())[row]
    source = Specimens(STYLE, {icon.label: icon.label for icon in STYLE}, 32, shares, 1, unseen=True)
    return [thing for index in range(200) for thing in source.specimen(index).truth.things]


def test_scenes_drawn_by_the_rules_learned_from_have_a_row_of_their_own() -> None:
    scenes = set(SCENE_THINGS.values())
    assert scenes.isdisjoint(things("fluent-flat, all kinds of picture but scenes"))
    assert scenes.issuperset(things("scenes, by the rules that it learned from"))


def test_all_other_kinds_of_picture_are_measured_together() -> None:
    every = mixtures("fluent-flat", Shares())["fluent-flat, all kinds of picture but scenes"][0].kinds
    assert every == {**Shares().kinds, "scene": 0}
