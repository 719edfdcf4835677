"""What a picture under way looks like, at next to no cost: one linear map from a latent's channels to a colour.

A VAE's latents are close to a small picture in other colours, so the colour of each is nearly a weighted sum of its
channels. The weights are the VAE's own: it decodes one chart of random patches, and they are fitted by least squares.
So every family, and every VAE in its place, has the map that suits it.

A model of few latents shows little that way, and may bring a small decoder for it (a diffusers ``AutoencoderTiny``, in
the folder ``preview`` beside its other parts).
"""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from illustrious.images.diffusion.decode import decode

LARGEST = 128
"""Pixels along an edge; of larger latents every second or third is shown."""

DECODED = 32
"""Latents along an edge up to which a model's own small decoder draws the preview."""

QUALITY = 70

CHART, PATCH = 32, 4
"""Latents along an edge of the chart, and of its patches. A patch is flat, so that its middle decodes to one colour."""


class Previewer:
    """The previews of one VAE (a diffusers ``AutoencoderKL`` in its place). Making one has it decode a small chart.
    Raises ``EngineFailed`` when the VAE computes values that are no numbers."""

    def __init__(self, vae: Any, decoder: Any = None) -> None:
        self._map = fit(vae)
        self._decoder = decoder

    @torch.inference_mode()
    def preview(self, latents: Tensor) -> bytes:
        """A small WebP file of the picture that these latents stand for: a pixel for each latent, or what the decoder
        makes of it.

        ``latents`` are 1 × channels × height × width as the UNet sees them, on any device: the estimate of the clean
        picture that the sampler makes at each step (x₀; diffusers calls it ``pred_original_sample``), for what is still
        noisy shows noise.
        """
        decoded = self._decoder is not None and max(latents.shape[-2:]) <= DECODED
        colours = self._decoded(latents) if decoded else self._mapped(latents)
        levels = (colours.nan_to_num() * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)
        buffer = io.BytesIO()
        Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()).save(buffer, "WEBP", quality=QUALITY, method=0)
        return buffer.getvalue()

    def _decoded(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self._decoder.dtype) / self._decoder.config.scaling_factor
        picture: Tensor = self._decoder.decode(scaled, return_dict=False)[0][0].float()
        return picture

    def _mapped(self, latents: Tensor) -> Tensor:
        stride = -(-max(latents.shape[-2:]) // LARGEST)
        small = latents[0, :, ::stride, ::stride].float()
        weights = self._map.to(small.device)
        colours: Tensor = torch.tensordot(weights[:-1].T, small, dims=1) + weights[-1].view(3, 1, 1)
        return colours


def fit(vae: Any) -> Tensor:
    """The map from latents to colours −1 … 1: (channels + 1) × 3, its last row the bias. Raises ``EngineFailed``.

    Scaled latents of pictures have a deviation of 1 (that is what the scaling factor is for), so the chart has, too.
    """
    generator = torch.Generator().manual_seed(0)  # the same map each time
    patches = torch.randn(1, vae.config.latent_channels, CHART // PATCH, CHART // PATCH, generator=generator)
    chart = interpolate(patches, size=(CHART, CHART), mode="nearest")
    picture, _ = decode(vae, chart.to(vae.device))
    colours = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    targets = avg_pool2d(colours, picture.width // CHART)
    samples = torch.cat([chart, torch.ones(1, 1, CHART, CHART)], dim=1)
    rows = [values.flatten(2)[0].T for values in (samples, targets)]
    solution: Tensor = torch.linalg.lstsq(rows[0], rows[1]).solution
    return solution
