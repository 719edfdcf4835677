"""One picture from request to file, as a generator that leaves to others when its parts are done.

It yields a ``Picture`` that is to be taken to its end, or work to be done ``Aside``, whose result is sent back. So a
loop can take many through at once.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from illustrious.errors import EngineFailed, InvalidRequest
from illustrious.images.diffusion.canvas import Canvas, Size, lay_out, steps_drawn
from illustrious.images.diffusion.conditioner import EmbeddingLookup
from illustrious.images.diffusion.decode import decode, png
from illustrious.images.diffusion.denoise import Picture, noise
from illustrious.images.diffusion.edit import Start, begin, begin_again
from illustrious.images.diffusion.encode import encode
from illustrious.images.diffusion.expand import expand
from illustrious.images.diffusion.hires import (
    enlarge_latents,
    enlarge_picture,
    latent_kind,
    resampling,
    target_size,
)
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.outfit import Find, Outfit, dress
from illustrious.images.diffusion.placement import free_memory, memory_ran_out
from illustrious.images.diffusion.returned import returned
from illustrious.images.diffusion.samplers import Sampler, choose
from illustrious.images.diffusion.shortcuts import deep_every
from illustrious.images.diffusion.upscale import Upscaler
from illustrious.images.diffusion.wildcards import Wildcards
from illustrious.types import Hires, ImageRequest, ImageResult

Value = TypeVar("Value")


@dataclass(frozen=True)
class Aside:
    """Work that needs no UNet. It is done beside the loop, one after the other; ``alone``: the loop stands still."""

    work: Callable[[], Any]
    alone: bool = False


Work = Generator[Picture | Aside, Any, ImageResult]


@dataclass(frozen=True)
class Surroundings:
    """What requests name: files by kind and name, autoencoders and upscalers by name, learned words, wildcards.

    ``prepare`` is done aside before a model's first picture.
    """

    find: Find
    vae: Callable[[Model, str], Any]
    upscaler: Callable[[Model, str], Upscaler]
    embeddings: Callable[[Model], EmbeddingLookup | None]
    wildcards: Callable[[], Wildcards]
    prepare: Callable[[Model], Callable[[], None] | None]
    max_pixels: int


def total_steps(request: ImageRequest) -> int:
    """Denoising steps of one picture, all passes together."""
    first = request.steps if request.init_image is None else steps_drawn(request.steps, request.strength)
    if request.hires is None:
        return first
    return first + steps_drawn(request.hires.steps or request.steps, request.hires.strength)


def draw(model: Model, request: ImageRequest, around: Surroundings) -> Work:
    """The picture of a request for one.

    Raises ``InvalidRequest``, ``TooLarge``, ``EngineFailed``, ``StorageFailed``.
    """
    drawn, warnings = expand(request, around.wildcards())
    sampler, unfit = choose(model.sampler, drawn.sampler, drawn.schedule)
    canvas = lay_out(drawn, model.size, around.max_pixels)
    for size in (canvas.size, canvas.result_size):
        _check(model, size, around.max_pixels)
    vae = model.vae if drawn.vae is None else around.vae(model, drawn.vae)
    outfit, unmatched = dress(model, drawn, around.find)
    passes = _Passes(model, drawn, sampler, outfit, vae, around)
    passes.warnings += [*warnings, *unfit, *canvas.warnings, *unmatched]
    if canvas.draws and (preparation := around.prepare(model)) is not None:
        yield Aside(preparation)
    if canvas.draws:
        image = yield from passes.draw(canvas)
        if drawn.speed != "exact":
            passes.warnings += [news for beside in (model.compiled, model.rounded) if beside for news in beside.news()]
    else:
        image = canvas.original or Image.new("RGB", canvas.size)
    file = yield Aside(partial(_finished, canvas, image))
    return ImageResult(
        image=file,
        request=drawn.model_copy(update={"width": canvas.asked[0], "height": canvas.asked[1]}),
        model=model.name,
        sampler=sampler.name,
        schedule=sampler.schedule,
        warnings=tuple(dict.fromkeys(passes.warnings)),
    )


def _finished(canvas: Canvas, image: Image.Image) -> bytes:
    return png(canvas.finish(image))


def _check(model: Model, size: Size, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidRequest(
            f"{width}×{height} are {width * height:,} pixels, and the limit is {max_pixels:,}. "
            "Ask for a smaller picture.",
            field="width",
        )
    if width % model.factor or height % model.factor:
        raise InvalidRequest(f"Width and height must be multiples of {model.factor} with this model.", field="width")


class _Passes:
    """The passes of one picture. ``warnings`` grow as they are made."""

    def __init__(
        self, model: Model, request: ImageRequest, sampler: Sampler, outfit: Outfit, vae: Any, around: Surroundings
    ) -> None:
        self.warnings: list[str] = []
        self._model = model
        self._request = request
        self._sampler = sampler
        self._outfit = outfit
        self._vae = vae
        self._around = around
        # As in diffusers: guidance up to 1 is none, and a UNet with distilled guidance needs no second half for it.
        self._guided = request.guidance > 1 and model.unet.config.time_cond_proj_dim is None
        if request.negative_prompt and not self._guided:
            self.warnings.append("The negative prompt has no effect without guidance above 1.")

    def draw(self, canvas: Canvas) -> Generator[Picture | Aside, Any, Image.Image]:
        request, inpainting = self._request, self._model.is_inpainting

        def start(noise: Tensor) -> Generator[Aside, Any, Start]:
            if canvas.original is None and not inpainting:
                return Start()
            return (yield from self._aside(partial(begin, self._vae, canvas, noise, inpainting)))

        latents = yield from self._pass(canvas, start, request.steps)
        if request.hires is not None:
            latents = yield from self._again(canvas, latents, request.hires)
        return (yield from self._decoded(latents))

    def _again(self, canvas: Canvas, latents: Tensor, hires: Hires) -> Generator[Picture | Aside, Any, Tensor]:
        """The second pass: the picture of ``latents``, enlarged and drawn over."""
        size = target_size(hires, canvas.size)
        _check(self._model, size, self._around.max_pixels)
        enlarged = canvas.enlarged(size)
        latents = yield from self._enlarged(latents, size, hires.upscaler)

        def start(noise: Tensor) -> Generator[Aside, Any, Start]:
            again = partial(begin_again, self._vae, enlarged, latents, hires.strength, self._model.is_inpainting)
            return (yield from self._aside(again))

        return (yield from self._pass(enlarged, start, hires.steps or self._request.steps, self._request.steps))

    def _pass(
        self,
        canvas: Canvas,
        start: Callable[[Tensor], Generator[Aside, Any, Start]],
        steps: int,
        first_steps: int | None = None,
    ) -> Generator[Picture | Aside, Any, Tensor]:
        """The latents of one pass. Each pass begins with a generator of its own, of the picture's seed."""
        model, request, (width, height) = self._model, self._request, canvas.size
        generator = torch.Generator("cpu").manual_seed(request.seed)
        shape = (1, model.unet.config.out_channels, height // model.factor, width // model.factor)
        beginning = noise(shape, generator)
        begun = yield from start(beginning)
        embeddings = self._around.embeddings(model)
        conditioning, warnings = yield from self._with_room(
            lambda: self._outfit.condition(request, canvas.size, steps, self._guided, embeddings, first_steps)
        )
        self.warnings += warnings
        control = yield from self._with_room(
            lambda: self._outfit.control(request, canvas, self._around.find, self._around.max_pixels)
        )
        parts, lost = self._outfit.parts(request.speed)
        self.warnings += lost
        picture = Picture(
            scheduler=self._sampler.scheduler(),
            noise=beginning,
            conditioning=conditioning,
            steps=steps,
            guidance=request.guidance,
            generator=generator,
            rescale=request.guidance_rescale or 0.0,
            start=begun,
            control=control,
            group=(model.key, shape, self._outfit.key, request.speed, request.exact),
            exact=request.exact,
            worn=self._outfit.worn,
            parts=parts,
        )
        if request.speed == "fast" and self._outfit.axes == "none":
            picture.deep_every, warnings = deep_every(model.unet, self._sampler, picture.steps)
            self.warnings += warnings
        yield picture
        return picture.latents

    def _enlarged(self, latents: Tensor, size: Size, upscaler: str) -> Generator[Aside, Any, Tensor]:
        factor, axes = self._model.factor, self._outfit.axes
        kind = latent_kind(upscaler)
        if kind is not None:
            return enlarge_latents(latents, kind, (size[0] // factor, size[1] // factor), axes)
        plain = resampling(upscaler)
        if plain is None:
            self._around.find("upscaler", upscaler, "hires")  # a name that is not there is told before any decoding
        image = yield from self._decoded(latents)

        def enlarge() -> Tensor:
            by = plain if plain is not None else self._around.upscaler(self._model, upscaler)
            return encode(self._vae, returned(enlarge_picture(image, size, by, axes)))

        return (yield from self._aside(enlarge))

    def _decoded(self, latents: Tensor) -> Generator[Aside, Any, Image.Image]:
        """Whole; or, where memory does not suffice, in tiles."""
        image: Image.Image
        try:
            image, warnings = yield self._beside(partial(decode, self._vae, latents))
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            free_memory(self._model.placement)
            image, warnings = yield from self._aside(partial(decode, self._vae, latents, in_tiles=True))
        self.warnings += warnings
        return image

    def _aside(self, work: Callable[[], Value]) -> Generator[Aside, Any, Value]:
        """Work for the VAE, with as much room as can be made."""
        while True:
            try:
                value: Value = yield self._beside(work)
            except RuntimeError as error:
                yield from self._make_room(error)
            else:
                return value

    def _beside(self, work: Callable[[], Value]) -> Aside:
        def worn() -> Value:
            with self._outfit.worn_by(self._vae):
                return work()

        return Aside(worn)

    def _with_room(self, work: Callable[[], Value]) -> Generator[Aside, Any, Value]:
        while True:
            try:
                return work()
            except RuntimeError as error:
                yield from self._make_room(error)

    def _make_room(self, error: RuntimeError) -> Generator[Aside, Any, None]:
        """After this it is worth trying again. Raises ``EngineFailed`` when it is not, and errors of another kind.

        Nothing else is done meanwhile: no part may leave the device under another picture.
        """
        if not memory_ran_out(error):
            raise error
        free_memory(self._model.placement)
        made = yield Aside(self._model.make_room, alone=True)
        if not made:
            raise EngineFailed(memory_message(self._model)) from error


def memory_message(model: Model) -> str:
    return f"The memory of {model.placement.device} ran out. Ask for a smaller picture."
