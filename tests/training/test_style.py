from pathlib import Path

import torch
from training.lora import LoraTrainer
from training.style import styled

from tests.training import tiny
from tests.training.test_lora import recipe


def test_pictures_are_of_icons_in_the_style_alone(base: Path) -> None:
    config = styled(recipe(base, steps=4), base)
    trainer = LoraTrainer(config, config.style, tiny.icons(), torch.device("cpu"))
    captions = {trainer._composer.sample(number).caption for number in range(60)}
    assert any("frog" in caption for caption in captions)
    assert not any(word in caption for caption in captions for word in ("landscape", "city", "sunset", "style"))
