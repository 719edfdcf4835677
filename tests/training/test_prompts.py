import numpy as np
import pytest
from training.compose import Composer, Mixture, held_out
from training.concepts import ADDED, FIRST
from training.icons import Icon
from training.prompts import FOUNDING, TEN, Prompt, held_out_prompts, true_picture

from tests.training.tiny import icons

LABELS = ("red apple", "house", "frog")


def test_every_kind_is_asked_for_and_nothing_twice() -> None:
    for labels in (FIRST, ADDED):
        prompts = held_out_prompts(labels)
        assert {prompt.asked for prompt in prompts} == {"colour", "ground", "count", ""}
        assert len({prompt.caption for prompt in prompts}) == len(prompts) > 100
        assert {label for prompt in prompts for label in prompt.labels} <= set(labels)
    assert len(TEN) == 10


def test_only_what_no_recipe_draws_is_asked_for() -> None:
    for prompt in held_out_prompts(FIRST):
        if prompt.asked in ("colour", "ground"):
            assert held_out(prompt.asked, *prompt.labels, str(prompt.answer))
    drawn = Composer(icons(), 16, Mixture(), seed=0)
    captions = {drawn.sample(index).caption for index in range(2000)}
    assert not captions & {prompt.caption for prompt in held_out_prompts(LABELS, each=1000)}


def captions(mixture: Mixture, *labels: str) -> set[str]:
    """What a recipe says that knows these labels; of what shape they are does not matter."""
    shape = icons()[0]
    composer = Composer([Icon(label, (), shape.style, shape.pixels) for label in labels], 16, mixture, seed=0)
    return {composer.sample(index).caption for index in range(4000)}


def only(**kinds: float) -> Mixture:
    return Mixture(**{**dict.fromkeys(Mixture().kinds, 0.0), **kinds})


def test_what_another_label_of_the_same_name_was_drawn_with_is_not_asked_for() -> None:
    """Of the label "dragon" this background is held out, of "dragon face", which goes by "dragon" too, it is not. Both
    names are told apart no longer, but what is shipped learned before."""
    leaking = "a dragon on a light blue background"
    assert held_out("ground", "dragon", "light blue") and not held_out("ground", "dragon face", "light blue")
    assert leaking not in captions(only(single=1), "dragon", "dragon face")
    asked = {prompt.caption for prompt in held_out_prompts(FIRST, each=1000)}
    assert leaking not in asked
    assert "a dragon and a lion" not in asked
    assert "a dragon and a fox" not in asked
    assert any("a dragon face" in caption for caption in asked), "a noun of its own is asked for"


def test_the_backgrounds_that_dyed_hair_is_drawn_on_are_not_asked_for() -> None:
    assert held_out("ground", "girl", "red")
    drawn = captions(only(hair=1), "girl", "woman", "princess")
    assert any(caption.startswith("a girl") and caption.endswith("on a red background") for caption in drawn)
    assert "a girl on a red background" not in {prompt.caption for prompt in held_out_prompts(FIRST, each=1000)}


def test_a_true_picture_shows_what_the_prompt_says() -> None:
    prompts = held_out_prompts(LABELS, each=1000)
    grounded = next(prompt for prompt in prompts if (prompt.asked, prompt.answer) == ("ground", "red"))
    assert tuple(true_picture(grounded, icons(), 16, seed=0)[0, 0]) == (221, 46, 68)


def test_a_caption_that_no_recipe_says_has_no_true_picture() -> None:
    with pytest.raises(ValueError, match="No recipe says “a frog made of glass”"):
        true_picture(Prompt("a frog made of glass", "single", ("frog",)), icons(), 16, seed=0, tries=20)


@pytest.mark.parametrize("prompt", [prompt for prompt in FOUNDING if not prompt.labels], ids=lambda prompt: prompt.kind)
def test_two_true_pictures_of_a_scene_differ(prompt: Prompt) -> None:
    one, other = (true_picture(prompt, icons(), 16, seed) for seed in (0, 1))
    assert one.shape == (16, 16, 3)
    assert not np.array_equal(one, other)
