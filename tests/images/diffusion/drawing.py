"""A model in this process, and one picture of it alone."""

from pathlib import Path

from torch import Tensor

from illustrious.catalog.library import Library
from illustrious.images import EngineOptions
from illustrious.images.diffusion.denoise import Picture, denoise
from illustrious.images.diffusion.draw import Surroundings, Work, draw
from illustrious.images.diffusion.model import Model, load
from illustrious.images.diffusion.placement import Memory
from illustrious.images.diffusion.returned import returned
from illustrious.images.diffusion.stock import Stock
from illustrious.types import ImageRequest, ImageResult

MAX_PIXELS = 1 << 22


def loaded(path: Path) -> Model:
    return returned(load(EngineOptions(model=str(path), device="cpu")))


def surroundings(model: Model, *roots: Path) -> Surroundings:
    """With the model files in ``roots``."""
    return Stock(Library(roots), model, None, Memory(model.placement)).surroundings(MAX_PIXELS)


def drawn(work: Work, unet: object) -> tuple[list[Picture], ImageResult]:
    """Its passes, one after the other, and what comes of them."""
    pictures = []
    value = None
    while True:
        try:
            wish = work.send(value)
        except StopIteration as end:
            return pictures, end.value
        if isinstance(wish, Picture):
            list(denoise(unet, wish))
            pictures.append(wish)
            value = None
        else:
            value = wish.work()


def decoded(model: Model, request: ImageRequest, *roots: Path) -> ImageResult:
    """The whole way."""
    return drawn(draw(model, request, surroundings(model, *roots)), model.unet)[1]


def begun(model: Model, request: ImageRequest, *roots: Path) -> Picture:
    """A picture without its first step, from nothing but noise."""
    picture = next(draw(model, request, surroundings(model, *roots)))
    assert isinstance(picture, Picture)
    return picture


def latents(model: Model, request: ImageRequest, *roots: Path) -> Tensor:
    """At the end of the last pass."""
    pictures, _ = drawn(draw(model, request, surroundings(model, *roots)), model.unet)
    return pictures[-1].latents
