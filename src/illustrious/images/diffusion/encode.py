"""Pixels → latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from illustrious.errors import EngineFailed


def encode(vae: Any, picture: Image.Image) -> Tensor:
    """The latents of an RGB picture: 1 × 4 × height × width, float32, scaled as the UNet sees them.

    Raises ``EngineFailed`` when the VAE computes values that are no numbers.
    """
    return encode_pixels(vae, pixels(picture))


def pixels(picture: Image.Image) -> Tensor:
    """−1 … 1, float32, 1 × 3 × height × width."""
    unit = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(unit.transpose(2, 0, 1).copy())[None] * 2 - 1


@torch.inference_mode()
def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """Like ``encode``, of pixels −1 … 1 (1 × 3 × height × width).

    Many SDXL autoencoders overflow in float16; those are asked in float32, at once where the VAE says so itself.
    """
    if vae.dtype != torch.float16:
        latents = _latents(vae, pixels)
    elif vae.config.force_upcast or not (latents := _latents(vae, pixels)).isfinite().all():
        with _float32(vae):
            latents = _latents(vae, pixels)
    if not latents.isfinite().all():
        raise EngineFailed(
            "The VAE computed values that are no numbers from the picture sent in. Try it without the picture; if that "
            "fails as well, the checkpoint is damaged: choose another."
        )
    return latents


def _latents(vae: Any, pixels: Tensor) -> Tensor:
    config = vae.config
    encoded = vae.encode(pixels.to(vae.device, vae.dtype))
    # The mode of the distribution, not a sample: what is sent in should not use up the seed's randomness, which then
    # draws the same noise with a picture and without; and the mode is the best single guess of the picture.
    latents: Tensor = (encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents).float()
    mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        mean, deviation = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
        latents = (latents - mean) / deviation
    return latents * float(config.scaling_factor)


@contextmanager
def _float32(vae: Any) -> Iterator[None]:
    """The way there and back loses nothing: every float16 is a float32."""
    dtype = vae.dtype
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(dtype)
