"""Latents → pixels, and pixels → PNG."""

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from illustrious.errors import EngineFailed

TILE, OVERLAP = 64, 16
"""Edge of a tile, and what two tiles share, in latents: SDXL's autoencoder decodes one in half a gigabyte."""


@torch.inference_mode()
def decode(vae: Any, latents: Tensor, in_tiles: bool = False) -> tuple[Image.Image, list[str]]:
    """The picture of the latents (1 × 4 × height × width), and warnings.

    ``in_tiles`` takes less memory and may show faint seams, of which it warns. Many SDXL autoencoders overflow in
    float16; then the picture is decoded again in float32. Raises ``EngineFailed`` for latents or pixels that are no
    numbers.
    """
    if not latents.isfinite().all():
        raise EngineFailed(
            "The model computed values that are no numbers, so there is no picture. Try another seed or guidance; if "
            "it happens with every request, the checkpoint is damaged: choose another."
        )
    tiled = in_tiles and max(latents.shape[-2:]) > TILE
    pixels_of = _pixels_in_tiles if tiled else _pixels
    warnings = ["Memory was short, so the picture was decoded in tiles: colours may differ faintly."] if tiled else []
    if vae.dtype == torch.float16 and vae.config.force_upcast:
        return _picture(_in_float32(vae, latents, pixels_of)), warnings
    pixels = pixels_of(vae, latents)
    if pixels.isfinite().all():
        return _picture(pixels), warnings
    if vae.dtype != torch.float16:
        raise _no_numbers()
    pixels = _in_float32(vae, latents, pixels_of)
    if not pixels.isfinite().all():
        raise _no_numbers()
    return _picture(pixels), [*warnings, "The VAE overflowed in float16, so the picture was decoded in float32."]


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


def _pixels_in_tiles(vae: Any, latents: Tensor) -> Tensor:
    """The same, of tiles that fade into each other where they overlap.

    diffusers' own tiling of ``AutoencoderTiny`` counts on eight pixels to a latent, which not all have.
    """
    height, width = latents.shape[-2:]
    whole = weights = latents.new_zeros(())
    for top in _starts(height):
        for left in _starts(width):
            tile = _pixels(vae, latents[..., top : top + TILE, left : left + TILE]).float()
            scale = tile.shape[-1] // min(TILE, width)
            if not whole.ndim:
                whole, weights = (tile.new_zeros(1, rows, height * scale, width * scale) for rows in (3, 1))
            share = _fading(tile.shape[-2], scale).to(tile)[:, None] * _fading(tile.shape[-1], scale).to(tile)
            place = (..., slice(top * scale, (top + TILE) * scale), slice(left * scale, (left + TILE) * scale))
            whole[place] += tile * share
            weights[place] += share
    return whole / weights


def _starts(length: int) -> list[int]:
    """Where tiles begin that cover ``length``; the last one ends with it."""
    return [*range(0, max(length - TILE, 0), TILE - OVERLAP), max(length - TILE, 0)]


def _fading(length: int, scale: int) -> Tensor:
    """Weights along an edge of a tile: rising over the overlap at both ends, never 0."""
    ramp = (torch.arange(length) + 0.5) / (OVERLAP * scale)
    return torch.minimum(ramp, ramp.flip(0)).clamp(max=1)


def _in_float32(vae: Any, latents: Tensor, pixels_of: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The way there and back loses nothing: every float16 is a float32."""
    dtype = vae.dtype
    try:
        return pixels_of(vae.to(torch.float32), latents)
    finally:
        vae.to(dtype)


def _picture(pixels: Tensor) -> Image.Image:
    unit = (pixels[0].float() / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
