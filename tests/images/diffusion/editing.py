"""A denoising loop in twenty lines, and what the tests of editing hold against diffusers' pipelines."""

import inspect
import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from illustrious.images.diffusion.canvas import Canvas, lay_out
from illustrious.images.diffusion.edit import Start, begin
from illustrious.types import ImageRequest

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""

MAX_PIXELS = 1 << 22

PROMPT = {"prompt": "a red apple on a table", "negative_prompt": "blue"}


def png(array: np.ndarray) -> bytes:
    """The file of a picture: height × width × 3, or height × width of grey."""
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Colours that change smoothly, with a little noise: every pixel is its own."""
    y, x = np.mgrid[:height, :width]
    colours = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 220
    return (colours + np.random.default_rng(seed).uniform(0, 35, (height, width, 3))).astype(np.uint8)


def rectangle(width: int, height: int, box: tuple[int, int, int, int], value: int = 255) -> np.ndarray:
    """Grey, black but for ``box`` (left, top, right, bottom)."""
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = value
    return mask


def noise_of(seed: int, size: tuple[int, int], factor: int = 4) -> tuple[Tensor, torch.Generator]:
    """The picture's noise, and the generator that goes on from there."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, 4, size[1] // factor, size[0] // factor), generator=generator), generator


class Bench:
    """One model, as diffusers' three pipelines and as parts."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        self.text = pipeline.to(torch.float32)
        self.in_channels = pipeline.unet.config.in_channels
        self.image = StableDiffusionXLImg2ImgPipeline(**self.text.components, add_watermarker=False)
        self.inpaint = StableDiffusionXLInpaintPipeline(**self.text.components, add_watermarker=False)
        for pipeline in (self.text, self.image, self.inpaint):
            pipeline.set_progress_bar_config(disable=True)

    def theirs(self, pipeline: StableDiffusionXLPipeline | Any, scheduler: Any, seed: int, **further: Any) -> Tensor:
        pipeline.scheduler = scheduler
        latents: Tensor = pipeline(
            **PROMPT,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **further,
        ).images
        return latents

    def ours(self, scheduler: Any, request: ImageRequest) -> Tensor:
        canvas = lay_out(request, (64, 64), MAX_PIXELS)
        noise, generator = noise_of(request.seed, canvas.size, self.text.vae_scale_factor)
        start = begin(self.text.vae, canvas, noise, self.in_channels == 9)
        return self.run(scheduler, canvas.size, start, request.steps, noise, generator)

    @torch.inference_mode()
    def run(
        self,
        scheduler: Any,
        size: tuple[int, int],
        start: Start,
        steps: int,
        noise: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        scheduler.set_timesteps(steps)
        turn = start.first_turn(steps, scheduler.order)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(turn)
        timesteps = scheduler.timesteps[turn:]
        latents = start.noised(scheduler, noise, timesteps)
        positive, negative, pooled, negative_pooled = self.text.encode_prompt(**PROMPT)
        sizes = torch.tensor([[size[1], size[0], 0, 0, size[1], size[0]]] * 2, dtype=torch.float32)
        told = {"text_embeds": torch.cat([negative_pooled, pooled]), "time_ids": sizes}
        for done, timestep in enumerate(timesteps, start=1):
            sample = scheduler.scale_model_input(latents, timestep)
            if start.fixed is not None:
                sample = torch.cat([sample, start.fixed], dim=1)
            embeddings = torch.cat([negative, positive])
            answer = self.text.unet(sample.repeat(2, 1, 1, 1), timestep, embeddings, added_cond_kwargs=told).sample
            without, with_ = answer.chunk(2)
            prediction = without + 5.0 * (with_ - without)
            latents = _step(scheduler, prediction, timestep, latents, generator)
            latents = start.blend(scheduler, noise, timesteps[done:], latents)
        return latents


def _step(scheduler: Any, prediction: Tensor, timestep: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    randomness = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    stepped: Tensor = scheduler.step(prediction, timestep, latents, return_dict=False, **randomness)[0]
    return stepped


def difference(mine: Tensor, reference: Tensor) -> float:
    """The largest, relative to the reference's largest value."""
    return float((mine - reference).abs().max() / reference.abs().max())


def encode_without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers samples its encodings; ours are the mode, so for a comparison theirs are too."""
    mode = DiagonalGaussianDistribution.mode
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: mode(self))


def canvas_of(request: ImageRequest, native: tuple[int, int] = (64, 64)) -> Canvas:
    return lay_out(request, native, MAX_PIXELS)
