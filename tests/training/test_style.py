from pathlib import Path

import numpy as np
from accelerate import Accelerator
from training.compose import Composer
from training.style import PAPER, StyleTrainer, ink

from illustrious.vision.facts import oklab
from tests.training import tiny
from tests.training.test_lora import recipe


def test_ink_is_lines_and_greys_on_paper() -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[4:12, 4:12] = (221, 46, 68)
    drawn = ink(picture)
    assert tuple(drawn[0, 0]) == PAPER
    inside, line = drawn[8, 8], drawn[8, 3]
    assert 0.3 < oklab(inside)[0] < 0.9, "a wash"
    assert oklab(line)[0] < 0.35, "a line"
    chroma = np.hypot(*oklab(drawn)[..., 1:].T)
    assert chroma.max() < 0.04


def test_all_it_learns_from_has_the_look_and_the_captions_do_not_say_so(base: Path) -> None:
    config = recipe(base, steps=4)
    trainer = StyleTrainer(config, tiny.icons(), Accelerator(cpu=True))
    plain = Composer(tiny.icons(), config.size, config.mixture, config.seed)
    for number in range(20):
        made, before = trainer._composer.sample(number), plain.sample(number)
        assert made.caption == before.caption
        assert np.array_equal(made.pixels, ink(before.pixels))
