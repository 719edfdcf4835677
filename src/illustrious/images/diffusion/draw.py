"""One request from prompt to picture."""

from collections.abc import Iterator

import torch

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.conditioning import condition, truncations
from illustrious.images.diffusion.decode import blank, decode, png
from illustrious.images.diffusion.denoise import Picture, denoise, noise
from illustrious.images.diffusion.model import Model
from illustrious.types import ImageRequest, ImageResult


def draw(model: Model, request: ImageRequest, max_pixels: int) -> Iterator[int | ImageResult]:
    """Yields the number of steps done after each of them, and last the result.

    Raises ``InvalidRequest`` and ``EngineFailed``.
    """
    size = _size(model, request, max_pixels)
    picture, warnings = begin(model, request, size)
    yield from denoise(model.unet, picture)
    image, further = decode(model.vae, picture.latents)
    yield ImageResult(
        image=png(image),
        request=request.model_copy(update={"width": size[0], "height": size[1]}),
        model=model.name,
        sampler=model.sampler.name,
        warnings=(*warnings, *further),
    )


def _size(model: Model, request: ImageRequest, max_pixels: int) -> tuple[int, int]:
    width, height = request.width or model.size[0], request.height or model.size[1]
    if width * height > max_pixels:
        raise InvalidRequest(
            f"{width}×{height} are {width * height:,} pixels, and the limit is {max_pixels:,}. "
            "Ask for a smaller picture.",
            field="width",
        )
    if width % model.factor or height % model.factor:
        raise InvalidRequest(f"Width and height must be multiples of {model.factor} with this model.", field="width")
    return width, height


def begin(model: Model, request: ImageRequest, size: tuple[int, int]) -> tuple[Picture, list[str]]:
    # As in diffusers: guidance up to 1 is none, and a UNet with distilled guidance needs no second half for it.
    guided = request.guidance > 1 and model.unet.config.time_cond_proj_dim is None
    negative = request.negative_prompt if guided else None
    warnings = truncations(model.text_encoders, request.prompt, negative)
    if request.negative_prompt and not guided:
        warnings.append("The negative prompt has no effect without guidance above 1.")
    conditioning = condition(model.text_encoders, request.prompt, negative, size, model.zeros_for_empty_negative)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    channels = model.unet.config.out_channels
    start = noise((1, channels, size[1] // model.factor, size[0] // model.factor), generator)
    inpainting = model.unet.config.in_channels > channels
    picture = Picture(
        scheduler=model.sampler.scheduler(),
        noise=start,
        conditioning=conditioning,
        steps=request.steps,
        guidance=request.guidance,
        generator=generator,
        fixed=blank(model.vae, size) if inpainting else None,
    )
    return picture, warnings
