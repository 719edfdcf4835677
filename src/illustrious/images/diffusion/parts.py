"""What a checkpoint holds, whichever layout it came in: configurations and tensors under diffusers' own names."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import CLIPTokenizer

from illustrious.images.diffusion.samplers import Sampler

TIME_IDS = 6
"""Original size, crop and target size: the numbers SDXL is told beside the prompt."""


@dataclass(frozen=True)
class Part:
    """One model not yet built. ``kind`` is the name of its class, ``title`` what a person calls it, ``remedy`` what
    that person can do when it turns out to be unusable."""

    title: str
    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    remedy: str = "Download the model again, or choose another with --model."


@dataclass(frozen=True)
class Checkpoint:
    """``size`` is the native width and height in pixels.

    ``zeros_for_empty_negative``: an empty negative prompt stands for zeros rather than for the embedding of an empty
    text (diffusers' ``force_zeros_for_empty_prompt``, which SDXL was trained with). ``preview``: a small decoder for
    pictures under way, if it brings one.
    """

    name: str
    unet: Part
    vae: Part
    text_encoders: tuple[Part, Part]
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    sampler: Sampler
    size: tuple[int, int]
    zeros_for_empty_negative: bool
    preview: Part | None = None


def latent_factor(vae_config: dict[str, Any]) -> int:
    """Pixels per latent, along an edge: every level of the autoencoder but the last halves the picture."""
    return int(2 ** (len(vae_config["block_out_channels"]) - 1))
