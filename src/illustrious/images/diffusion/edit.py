"""Drawing over a picture: img2img, inpainting and outpainting, as far as latents go.

A request's way (``canvas.py`` has the part in pixels):

>>> canvas = lay_out(request, model.size, max_pixels)           # sizes and refusals, before anything is computed
>>> start = begin(model.vae, canvas, noise, inpainting=unet.config.in_channels == 9)
>>> turn = start.first_turn(steps, scheduler.order)             # after scheduler.set_timesteps
>>> scheduler.set_begin_index(turn)
>>> timesteps = scheduler.timesteps[turn:]                      # none of them at strength 0
>>> latents = start.noised(scheduler, noise, timesteps)
>>> for turn, timestep in enumerate(timesteps):
...     latents = scheduler.step(…)
...     latents = start.blend(scheduler, noise, timesteps[turn + 1 :], latents)
>>> image = canvas.finish(decoded)

What it computes is what diffusers' ``StableDiffusionXLImg2ImgPipeline`` and ``StableDiffusionXLInpaintPipeline`` do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from illustrious.images.diffusion.canvas import Canvas, spread, steps_drawn
from illustrious.images.diffusion.encode import encode, encode_pixels, pixels


@dataclass(frozen=True)
class Start:
    """Where a picture begins. ``Start()``: with noise alone, and everything is drawn.

    ``latents`` (1 × 4 × height × width, float32, without noise) is what is drawn over, ``strength`` (0 … 1) how much.
    ``mask`` (1 × 1 × height × width): 1 is drawn anew, 0 stays as in ``latents``, between them is blended; ``None``:
    all is drawn. ``fixed`` (1 × 5 × height × width) are the further channels of an inpainting UNet, at every step the
    same; such a UNet keeps the rest by itself, so there is no ``mask`` then. ``from_noise``: nothing of ``latents``
    shows through where it is drawn.
    """

    latents: Tensor | None = None
    mask: Tensor | None = None
    fixed: Tensor | None = None
    strength: float = 1.0
    from_noise: bool = True

    def first_turn(self, steps: int, order: int) -> int:
        """The index of the first of the scheduler's timesteps to be drawn: those before it are skipped.

        ``order`` is the scheduler's, which has that many timesteps to a step (Heun two).
        """
        return (steps - steps_drawn(steps, self.strength)) * order

    def noised(self, scheduler: Any, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents before the first turn. ``timesteps`` are those to be drawn; none: the clean ``latents``.

        Call it after ``set_begin_index`` and before the scheduler's first step: schedulers look up the noise's level
        by where they stand.
        """
        if self.latents is None or self.from_noise:
            started: Tensor = noise * scheduler.init_noise_sigma
        elif len(timesteps) == 0:
            started = self.latents
        else:
            started = scheduler.add_noise(self.latents, noise, timesteps[:1])
        return started

    def blend(self, scheduler: Any, noise: Tensor, timesteps: Tensor, latents: Tensor) -> Tensor:
        """The latents after a turn: what is kept is put back, as noisy as the rest is now.

        ``timesteps`` are those still to be drawn, ``noise`` what the picture began with. Call it right after the
        scheduler's step.
        """
        if self.mask is None or self.latents is None:
            return latents
        kept = self.latents if len(timesteps) == 0 else scheduler.add_noise(self.latents, noise, timesteps[:1])
        return (1 - self.mask) * kept + self.mask * latents


def begin(vae: Any, canvas: Canvas, noise: Tensor, inpainting: bool) -> Start:
    """The start of a canvas. Raises ``EngineFailed``.

    ``noise`` is what the picture will begin with (1 × 4 × height × width); ``inpainting``: the UNet has nine channels.
    """
    picture, mask = canvas.picture(), canvas.drawn()
    fixed = further_channels(vae, canvas) if inpainting else None
    if picture is None:
        return Start(fixed=fixed)
    if mask is None:
        return Start(encode(vae, picture), fixed=fixed, strength=canvas.strength, from_noise=False)
    latents = encode(vae, spread(picture, mask) if canvas.fill == "fill" else picture)
    share = latent_mask(mask, latents)
    if canvas.fill in ("noise", "empty"):
        latents = latents * (1 - share) + (noise.to(latents.device) * share if canvas.fill == "noise" else 0)
    return Start(
        latents,
        mask=None if inpainting else share,
        fixed=fixed,
        strength=canvas.strength,
        # As diffusers has it: with a mask, full strength forgets what was under it.
        from_noise=canvas.strength == 1.0,
    )


def begin_again(vae: Any, canvas: Canvas, latents: Tensor, strength: float, inpainting: bool) -> Start:
    """The start of a second pass over ``latents`` (clean, already enlarged). ``canvas`` is that of the first pass,
    ``enlarged`` to their size: what its mask keeps is kept again."""
    mask = canvas.drawn()
    return Start(
        latents,
        mask=None if mask is None or inpainting else latent_mask(mask, latents),
        fixed=further_channels(vae, canvas) if inpainting else None,
        strength=strength,
        from_noise=False,
    )


def latent_mask(mask: Image.Image, latents: Tensor) -> Tensor:
    """The mask (L) at the size of ``latents``, 0 … 1: the mean over the pixels of each of them."""
    height, width = latents.shape[-2:]
    return functional.adaptive_avg_pool2d(_unit(mask).to(latents.device), (height, width))


def further_channels(vae: Any, canvas: Canvas) -> Tensor:
    """What an inpainting UNet is told beside its latents: the mask, and the picture with grey under it, encoded.

    1 × 5 × height × width. Such UNets are trained with hard masks, so greys are rounded. When there is nothing to
    keep, the mask is all ones and the picture all grey.
    """
    picture, mask = canvas.picture(), canvas.drawn()
    if picture is None or mask is None:
        hidden, shown = torch.ones(1, 1, canvas.size[1], canvas.size[0]), torch.zeros(1, 3, *canvas.size[::-1])
    else:
        hidden = (_unit(mask) >= 0.5).float()
        shown = pixels(picture) * (1 - hidden)
    kept = encode_pixels(vae, shown)
    return torch.cat([functional.interpolate(hidden.to(kept.device), kept.shape[-2:]), kept], dim=1)


def _unit(mask: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None, None]
