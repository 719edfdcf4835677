"""The configuration of a training run: one TOML file, read strictly.

``training/starter.toml`` is what two processor cores can do in an evening, ``training/full.toml`` what one GPU can do
in half an hour.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from illustrious.types import Noun
from training.compose import Mixture
from training.learner import Schedule


class ModelConfig(Noun):
    """The parts of the SDXL architecture. ``start``: a diffusers folder whose weights and tokenizer are taken on;
    without it everything begins at random, and a tokenizer of ``vocabulary`` tokens is trained on ``captions``
    captions.

    ``channels``: of the UNet, one number per level. ``text_widths``: of the two text encoders. ``autoencoder``: a
    diffusers folder of an autoencoder trained before (``python -m training.autoencoder``). With ``start`` it takes the
    place of the one trained with when the model is written; its latents must be the same.
    """

    start: Path | None = None
    channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    head_width: int = 32
    text_widths: tuple[int, int] = (128, 192)
    text_layers: int = 3
    tokens: int = 32
    vocabulary: int = 4315
    captions: int = 20_000
    autoencoder: Path | None = None


class AutoencoderConfig(Noun):
    """An ``AutoencoderKL`` of ``len(channels) - 1`` halvings. ``kl``: the weight of the latents' divergence from a
    normal distribution; ``edges``: that of the differences between neighbouring pixels, which keeps outlines sharp.

    ``teacher``: a diffusers folder of an ``AutoencoderTiny`` whose latents, of pictures of ``ImageConfig.size``, the
    new one is to have, so that an image model trained on those draws through the new one: at ``ImageConfig.native``,
    which may be larger. ``jitter``: the standard deviation of what is added to those latents before they are decoded,
    for an image model's are not quite those of a picture.

    ``styles``: of the icons it learns from; the image model's where there are none. ``other_styles``: the share that is
    not of the first.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    groups: int = 16
    layers_per_block: int = 1
    teacher: Path | None = None
    jitter: float = 0.1
    styles: tuple[str, ...] = ()
    other_styles: float = 0.0
    samples: int = 400_000
    batch: int = 64
    learning_rate: float = 5e-4
    kl: float = 1e-6
    edges: float = 0.5


class LoraConfig(Noun):
    """An adapter of the finished image model; ``samples`` are seen, ``batch`` at a time."""

    rank: int = 8
    samples: int = 8_000
    batch: int = 16
    learning_rate: float = 1e-3
    ema: float = 0.99

    @property
    def schedule(self) -> Schedule:
        return Schedule(-(-self.samples // self.batch), self.learning_rate, warmup=20, ema=self.ema, weight_decay=0.0)


class PreviewConfig(Noun):
    """``width``: channels of the decoder, which is all its cost."""

    width: int = 12
    samples: int = 40_000
    batch: int = 32
    learning_rate: float = 2e-3

    @property
    def schedule(self) -> Schedule:
        return Schedule(-(-self.samples // self.batch), self.learning_rate)


class StyleConfig(LoraConfig):
    """``name``: how pictures are made over, of ``training.style.LOOKS``."""

    learning_rate: float = 3e-3
    name: Literal["ink"] = "ink"


class FewStepsConfig(LoraConfig):
    """In ``steps`` steps without guidance the adapter does what the model does in ``teacher_steps`` times as many with
    ``guidance``."""

    rank: int = 16
    learning_rate: float = 2e-3
    steps: int = 4
    teacher_steps: int = 2
    guidance: float = 5.0


PARTS = {"autoencoder", "style", "few_steps", "preview"}
"""Of ``ImageConfig``: what other commands than ``training.image`` make."""


class ImageConfig(Noun):
    """``size``: pixels a side of the pictures trained on; ``native``: of those the finished model draws, which is what
    the UNet is told. They differ where the finished model has an autoencoder that draws larger.

    ``styles``: of ``training.icons.STYLES``, the main one first. ``vocabulary``: the icons of
    ``training.concepts.STARTER`` or all there are.

    ``workers``: processes that compose samples ahead (on Linux), for devices that learn faster than one composes.

    ``samples`` are seen in all, ``batch`` at a time; ``warmup`` to ``weight_decay`` are
    ``training.learner.Schedule``'s. ``caption_dropout``: the share of samples without a caption, which guidance needs.
    ``min_snr`` caps the weight of nearly noiseless steps at this signal-to-noise ratio (Hang et al., "Efficient
    Diffusion Training via Min-SNR Weighting Strategy", 2023); 0 weighs all alike. ``precision``: of the arithmetic;
    weights are kept in float32.
    """

    size: int = 64
    native: int | None = None
    styles: tuple[str, ...] = ("twemoji",)
    vocabulary: Literal["starter", "all"] = "starter"
    mixture: Mixture = Field(default_factory=Mixture)
    model: ModelConfig = Field(default_factory=ModelConfig)
    autoencoder: AutoencoderConfig = Field(default_factory=AutoencoderConfig)
    style: StyleConfig = Field(default_factory=StyleConfig)
    few_steps: FewStepsConfig = Field(default_factory=FewStepsConfig)
    preview: PreviewConfig = Field(default_factory=PreviewConfig)
    workers: int = 0
    samples: int = 120_000
    batch: int = 32
    learning_rate: float = 3e-4
    warmup: int = 100
    decay: float = 0.5
    floor: float = 0.03
    weight_decay: float = 0.01
    ema: float = 0.999
    caption_dropout: float = 0.1
    min_snr: float = 0.0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0
    checkpoint_minutes: float = 5.0
    sheet_every: int = 20_000

    def said(self, *parts: str) -> dict[str, Any]:
        """The recipe as JSON, without what other commands than the asking one read: of ``PARTS`` only ``parts``."""
        return self.model_dump(mode="json", exclude=PARTS - set(parts))

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            steps=-(-self.samples // self.batch),
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            decay=self.decay,
            floor=self.floor,
            ema=self.ema,
            weight_decay=self.weight_decay,
        )


def read(file: Path) -> ImageConfig:
    """Raises ``pydantic.ValidationError`` for an unknown or ill-typed entry, ``tomllib.TOMLDecodeError`` for no
    TOML."""
    return ImageConfig.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
