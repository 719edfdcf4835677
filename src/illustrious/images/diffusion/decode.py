"""Latents → pixels, and pixels → PNG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from illustrious.errors import EngineFailed

TILE = 64
"""Edge of a tile, in latents: what SDXL's autoencoder decodes in half a gigabyte."""


def decode(vae: Any, latents: Tensor, in_tiles: bool = False) -> tuple[Image.Image, list[str]]:
    """The picture of the latents (1 × 4 × height × width), and warnings.

    ``in_tiles`` takes less memory and may show faint seams, of which it warns. Many SDXL autoencoders overflow in
    float16; then the picture is decoded again in float32. Raises ``EngineFailed`` for latents or pixels that are no
    numbers.
    """
    if not in_tiles or max(latents.shape[-2:]) <= TILE:
        return _decoded(vae, latents)
    with _tiled(vae):
        image, warnings = _decoded(vae, latents)
    return image, ["Memory was short, so the picture was decoded in tiles: colours may differ faintly.", *warnings]


@contextmanager
def _tiled(vae: Any) -> Iterator[None]:
    """Inside, diffusers decodes in tiles of our size that fade into each other by a quarter."""
    sizes = {"tile_latent_min_size": TILE, "tile_sample_min_size": TILE * 2 ** (len(vae.config.block_out_channels) - 1)}
    before = {name: getattr(vae, name) for name in sizes}
    vars(vae).update(sizes)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
        vars(vae).update(before)


@torch.inference_mode()
def _decoded(vae: Any, latents: Tensor) -> tuple[Image.Image, list[str]]:
    if not latents.isfinite().all():
        raise EngineFailed(
            "The model computed values that are no numbers, so there is no picture. Try another seed or guidance; if "
            "it happens with every request, the checkpoint is damaged: choose another."
        )
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        return _picture(_pixels_in_float32(vae, latents)), []
    pixels = _pixels(vae, latents)
    if pixels.isfinite().all():
        return _picture(pixels), []
    if vae.dtype != torch.float16:
        raise _no_numbers()
    pixels = _pixels_in_float32(vae, latents)
    if not pixels.isfinite().all():
        raise _no_numbers()
    return _picture(pixels), ["The VAE overflowed in float16, so the picture was decoded in float32."]


def _no_numbers() -> EngineFailed:
    return EngineFailed(
        "The VAE computed values that are no numbers, so there is no picture. Try another seed; if it happens with "
        "every request, the checkpoint is damaged: choose another."
    )


def _pixels(vae: Any, latents: Tensor) -> Tensor:
    """Pixels −1 … 1, 1 × 3 × height × width."""
    config = vae.config
    scaled = latents / config.scaling_factor
    mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        mean, deviation = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
        scaled = latents * deviation / config.scaling_factor + mean
    pixels: Tensor = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return pixels


def _pixels_in_float32(vae: Any, latents: Tensor) -> Tensor:
    """The way there and back loses nothing: every float16 is a float32."""
    dtype = vae.dtype
    try:
        return _pixels(vae.to(torch.float32), latents)
    finally:
        vae.to(dtype)


def _picture(pixels: Tensor) -> Image.Image:
    unit = (pixels[0].float() / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
