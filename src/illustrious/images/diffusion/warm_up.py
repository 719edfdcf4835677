"""Compiling before anyone asks, for the pictures most are like: one alone, with guidance, in the model's native size.

For any other shape a graph is made when it is asked for first.
"""

from typing import Any

import torch

from illustrious.images.diffusion.denoise import Picture, arguments, noise
from illustrious.images.diffusion.edit import Start
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.outfit import Outfit
from illustrious.images.diffusion.placement import free_memory, memory_ran_out
from illustrious.images.diffusion.shortcuts import has_parts
from illustrious.types import ImageRequest


def warm_up(model: Model) -> None:
    """Begin to compile, beside, where the device gains by it and has room for the whole model. Returns at once."""
    if model.compiled is None or not model.is_whole or not has_parts(model.unet):
        return
    try:
        usual = _usual(model)
    except RuntimeError as error:
        if not memory_ran_out(error):
            raise
        free_memory(model.placement)
    else:
        model.compiled.prepare(usual)


@torch.inference_mode()
def _usual(model: Model) -> dict[str, Any]:
    """What the UNet is asked at the first turn of such a picture."""
    width, height = (edge // model.factor for edge in model.size)
    channels = model.unet.config.out_channels
    generator = torch.Generator("cpu").manual_seed(0)
    beginning = noise((1, channels, height, width), generator)
    further = torch.zeros(1, model.unet.config.in_channels - channels, height, width, device=model.placement.device)
    guided = model.unet.config.time_cond_proj_dim is None
    conditioning, _ = Outfit(model, (), "none").condition(ImageRequest(), model.size, 1, guided, None, None)
    picture = Picture(
        scheduler=model.sampler.scheduler(),
        noise=beginning,
        conditioning=conditioning,
        steps=ImageRequest().steps,
        guidance=ImageRequest().guidance,
        generator=generator,
        start=Start(fixed=further if model.is_inpainting else None),
    )
    return arguments(model.unet, picture)
