"""The denoising loop, ours so that something can happen between two steps.

A picture under way is a value of its own, with its own scheduler and place in the schedule; the loop only asks the
UNet for it. It computes what diffusers' SDXL pipelines compute, in float32 outside the UNet whatever the UNet's dtype.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.conditioning import Conditioning


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise from a generator on the CPU, so that a seed means the same picture on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


class Picture:
    """One picture under way. ``latents`` 1 × 4 × height × width, float32; ``step`` of ``steps`` are done.

    ``fixed`` are the further input channels of an inpainting UNet (1 × 5 × height × width), the same at every step.
    Raises ``InvalidRequest`` when the scheduler cannot take so many steps.
    """

    def __init__(
        self,
        scheduler: Any,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int,
        guidance: float,
        generator: torch.Generator,
        fixed: Tensor | None = None,
    ) -> None:
        device = conditioning.embeddings.device
        try:
            scheduler.set_timesteps(steps, device=device)
        except ValueError as error:
            raise InvalidRequest(
                f"This model's sampler cannot take {steps} steps ({error}). Ask for another number.", field="steps"
            ) from error
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # saves the scheduler a look-up, which would wait for the device
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self.conditioning = conditioning
        self.guidance = guidance
        self.fixed = fixed
        self.step = 0
        self.latents = noise.to(device) * scheduler.init_noise_sigma
        self._scheduler = scheduler
        self._timesteps = scheduler.timesteps
        self._turn = 0
        self._warm_up = max(len(self._timesteps) - steps * scheduler.order, 0)
        self._randomness = {"generator": generator} if takes_generator else {}

    @property
    def done(self) -> bool:
        return self._turn == len(self._timesteps)

    @property
    def timestep(self) -> Tensor:
        timestep: Tensor = self._timesteps[self._turn]
        return timestep

    def input(self) -> Tensor:
        """What the UNet sees of the picture at this turn: 1 × channels × height × width."""
        scaled: Tensor = self._scheduler.scale_model_input(self.latents, self.timestep)
        return scaled if self.fixed is None else torch.cat([scaled, self.fixed], dim=1)

    def advance(self, prediction: Tensor) -> None:
        """Take the UNet's answer, one row per half, one turn further. Second-order samplers take two turns a step."""
        prediction = prediction.float()
        if len(prediction) == 2:
            negative, positive = prediction.chunk(2)
            prediction = negative + self.guidance * (positive - negative)
        self.latents = self._scheduler.step(
            prediction, self.timestep, self.latents, return_dict=False, **self._randomness
        )[0]
        self._turn += 1
        if self.done or (self._turn > self._warm_up and self._turn % self._scheduler.order == 0):
            self.step += 1


def predict(unet: Any, picture: Picture) -> Tensor:
    """One call of the UNet: its answer for each half of the picture's conditioning."""
    told = picture.conditioning
    sample = picture.input().to(unet.dtype).repeat(len(told.embeddings), 1, 1, 1)
    prediction: Tensor = unet(
        sample,
        picture.timestep,
        encoder_hidden_states=told.embeddings,
        added_cond_kwargs={"text_embeds": told.pooled, "time_ids": told.sizes},
        timestep_cond=guidance_embedding(unet, picture.guidance),
        return_dict=False,
    )[0]
    return prediction


def guidance_embedding(unet: Any, guidance: float) -> Tensor | None:
    """What a UNet with distilled guidance is told of it (latent consistency models, arXiv 2310.04378); or ``None``."""
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    scale = torch.tensor([(guidance - 1) * 1000.0])
    embedding: Tensor = get_timestep_embedding(scale, width, downscale_freq_shift=1)
    return embedding.to(unet.device, unet.dtype)


def denoise(unet: Any, picture: Picture) -> Iterator[int]:
    """Yields between the steps: how many are done."""
    while not picture.done:
        before = picture.step
        # Not around the yield: the mode would leak to whoever asks for the next step.
        with torch.inference_mode():
            picture.advance(predict(unet, picture))
        if picture.step > before:
            yield picture.step
