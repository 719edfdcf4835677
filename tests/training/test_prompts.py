import numpy as np
import pytest
from training.compose import Composer, Mixture, held_out
from training.concepts import ADDED, FIRST
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


def test_a_true_picture_shows_what_the_prompt_says() -> None:
    prompts = held_out_prompts(LABELS, each=1000)
    grounded = next(prompt for prompt in prompts if (prompt.asked, prompt.answer) == ("ground", "red"))
    assert tuple(true_picture(grounded, icons(), 16, seed=0)[0, 0]) == (221, 46, 68)


@pytest.mark.parametrize("prompt", [prompt for prompt in FOUNDING if not prompt.labels], ids=lambda prompt: prompt.kind)
def test_two_true_pictures_of_a_scene_differ(prompt: Prompt) -> None:
    one, other = (true_picture(prompt, icons(), 16, seed) for seed in (0, 1))
    assert one.shape == (16, 16, 3)
    assert not np.array_equal(one, other)
