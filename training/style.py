"""Train a LoRA that draws in another style: ``python -m training.style [--detach]``.

The finished image model learns from the same pictures as before, made over by rule: ``ink`` is a pen drawing with grey
washes on warm paper. No caption names the style: the LoRA is what asks for it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from illustrious.vision.facts import oklab
from training import lora, run
from training.compose import Sample
from training.config import ImageConfig, read
from training.icons import Icon, Pixels
from training.image import Source, icons_of

PAPER = (255, 249, 236)

WASH, PEN = 0.6, 0.9
"""How dark black becomes, and a line, from 0 to 1."""

STEEPEST = 0.12
"""The change of Oklab lightness and colour from one pixel to the next that is a full line."""


def ink(pixels: Pixels) -> Pixels:
    """(height, width, 3) sRGB as pen and wash on paper: lines where colours meet, greys as light as the colours."""
    lab = oklab(pixels)
    steps = [np.diff(lab, axis=axis, append=lab.take([-1], axis=axis)) for axis in (0, 1)]
    lines = np.clip(np.sqrt(sum(np.square(step).sum(axis=-1) for step in steps)) / STEEPEST, 0, 1)
    washes = 1 - WASH * (1 - lab[..., 0])
    drawn: Pixels = np.round(np.array(PAPER) * (washes * (1 - PEN * lines))[..., None]).astype(np.uint8)
    return drawn


LOOKS: dict[str, Callable[[Pixels], Pixels]] = {"ink": ink}


class MadeOver:
    """A composer whose pictures all have one look."""

    def __init__(self, composer: Source, look: Callable[[Pixels], Pixels]) -> None:
        self._composer = composer
        self._look = look

    def sample(self, index: int) -> Sample:
        plain = self._composer.sample(index)
        return Sample(self._look(plain.pixels), plain.caption)


class StyleTrainer(lora.LoraTrainer):
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        super().__init__(config, config.style, icons, accelerator)
        self._composer = MadeOver(self._composer, LOOKS[config.style.name])


def main(words: list[str]) -> int:
    parser = run.arguments("Train a style LoRA on the image model.", Path("training/runs/style"))
    parser.add_argument("--base", type=Path, default=Path("training/runs/image/model"), help="the finished model")
    options = parser.parse_args(words)
    if not run.prepare(options, "training.style", words):
        return 0
    config = read(options.config)
    if options.samples:
        config = config.model_copy(update={"style": config.style.model_copy(update={"samples": options.samples})})
    config = lora.on_finished(config, options.base, config.style)
    accelerator = run.accelerator()
    trainer = StyleTrainer(config, icons_of(config, options.cache, accelerator), accelerator)
    name = config.style.name
    return lora.learn(trainer, config, options.run, name, f"Draws in {name}, at weights from 0.5 to 1.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
