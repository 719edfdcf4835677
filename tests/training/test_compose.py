import re
from dataclasses import replace

import numpy as np
import pytest
from training.colours import COLOURS
from training.compose import PAINTS, Composer, Mixture, held_out
from training.concepts import nouns, with_article
from training.icons import Icon
from training.scenes import SCENES, Brush

from tests.training.tiny import icons

SAMPLES = 600


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(icons(), 16, Mixture(), seed=3)


def test_a_number_gives_the_same_sample_whoever_asks(composer: Composer) -> None:
    again = Composer(icons(), 16, Mixture(), seed=3)
    for index in (0, 17, 400):
        assert composer.sample(index).caption == again.sample(index).caption
        assert np.array_equal(composer.sample(index).pixels, again.sample(index).pixels)
    assert composer.sample(0).caption != Composer(icons(), 16, Mixture(), seed=4).sample(0).caption


def test_combinations_kept_for_the_scores_are_never_drawn(composer: Composer) -> None:
    captions = [composer.sample(index).caption for index in range(SAMPLES)]
    kept = [
        (label, colour)
        for label in ("red apple", "house", "frog")
        for colour in PAINTS
        if held_out("colour", label, colour)
    ]
    assert kept
    for label, colour in kept:
        assert not [caption for caption in captions if f"{colour} {nouns(label)[0]}" in caption]


def test_a_background_named_is_the_background_drawn(composer: Composer) -> None:
    """Of single icons, whose corners show nothing else."""
    only = Composer(icons(), 16, Mixture(**{kind: 0 for kind in Mixture().kinds if kind != "single"}), seed=0)
    samples = [only.sample(index) for index in range(200)]
    red = [sample for sample in samples if "on a red background" in sample.caption]
    assert red
    for sample in red:
        assert tuple(sample.pixels[0, 0]) == (221, 46, 68)


def test_two_apples_are_two_things(composer: Composer) -> None:
    only = Composer(icons(64), 64, Mixture(**{kind: 0 for kind in Mixture().kinds if kind != "count"}), seed=0)
    sample = next(made for made in map(only.sample, range(500)) if made.caption == "two apples")
    thing = (sample.pixels.astype(int) - 255).any(axis=-1)
    left, middle, right = thing[:, :31].any(), thing[:, 31:33].any(), thing[:, 33:].any()
    assert left
    assert right
    assert not middle


def test_another_style_is_always_named() -> None:
    shiny = [Icon(icon.label, (), "fluent", icon.pixels) for icon in icons()]
    only = Composer([*icons(), *shiny], 16, Mixture(other_styles=1, place=0, landscape=0, city=0, sunset=0), seed=0)
    captions = [only.sample(index).caption for index in range(100)]
    assert any("3d style" in caption for caption in captions)


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_says_what_it_draws_and_never_draws_twice_the_same(name: str) -> None:
    pixels = {label: icons()[0].pixels for label in ("castle", "dragon", "dragon face", "fire", "sailboat")}
    drawn = []
    for seed in range(3):
        brush = Brush(32, pixels)
        caption = SCENES[name](brush, np.random.default_rng(seed))
        assert caption.split()
        drawn.append(brush.finished())
        assert drawn[-1].shape == (32, 32, 3)
    assert not np.array_equal(drawn[0], drawn[1])


def test_captions_are_english() -> None:
    mixture = Mixture(**{kind: 0 for kind in Mixture().kinds if kind not in ("sized", "count", "single")})
    composer = Composer(icons(), 16, mixture, seed=0)
    captions = [composer.sample(number).caption for number in range(600)]
    assert any("on an orange background" in caption for caption in captions)
    assert any(re.match(r"(two|three|four) \w+ houses", caption) for caption in captions)
    assert not any(re.search(r"\ba [aeo]", caption) for caption in captions)


def test_a_thing_alone_may_be_told_by_what_it_is_filed_under_too_but_for_its_colour() -> None:
    apple = replace(icons()[0], tags=("fruit", "red", "apple"))
    single = {kind: float(kind == "single") for kind in Mixture().kinds}
    for share, words in ((1.0, "fruit"), (0.0, "")):
        composer = Composer([apple], 16, Mixture(**single, keywords=share), seed=0)
        captions = [composer.sample(number).caption for number in range(50)]
        assert {"fruit" in caption for caption in captions} == {bool(words)}
        assert not any(", red" in caption or ", apple" in caption for caption in captions)


def test_what_is_held_out_of_one_label_is_not_drawn_under_another_of_the_same_noun() -> None:
    dragons = [replace(icons()[0], label=label) for label in ("dragon", "dragon face")]
    composer = Composer(dragons, 16, Mixture(), seed=0)
    captions = [composer.sample(number).caption for number in range(1500)]
    kept = [ground for ground in COLOURS if ground != "white" and held_out("ground", "dragon", ground)]
    assert kept
    for ground in kept:
        assert not any(caption.startswith(f"a dragon on {with_article(ground)} background") for caption in captions)
