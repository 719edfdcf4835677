"""The second pass: a picture drawn small, enlarged, and drawn over at its new size.

The way of a request with ``hires``, after its first pass has ended in ``latents``:

>>> size = target_size(request.hires, canvas.size)
>>> if (kind := latent_kind(request.hires.upscaler)) is not None:
...     latents = enlarge_latents(latents, kind, (size[0] // factor, size[1] // factor))
... else:
...     picture = enlarge_picture(decoded, size, resampling(request.hires.upscaler) or upscale.load(…))
...     latents = encode(vae, picture)
>>> start = begin_again(vae, canvas.enlarged(size), latents, request.hires.strength, inpainting)

and on as in ``edit.py``, with ``request.hires.steps or request.steps`` steps, a fresh scheduler and conditioning for
``size``. The noise of the second pass comes from a new generator with the picture's seed, as in AUTOMATIC1111's web UI,
so that it does not depend on how much randomness the first pass has used.

Read where there is no torch, for the names and sizes: only what enlarges imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from illustrious.types import Hires

if TYPE_CHECKING:
    from torch import Tensor

    from illustrious.images.diffusion.canvas import Size
    from illustrious.images.diffusion.tiling import Axes
    from illustrious.images.diffusion.upscale import Upscaler, Work


@dataclass(frozen=True)
class Kind:
    """How latents are interpolated."""

    label: str
    mode: str
    antialias: bool = False


LATENT = (
    Kind("Latent", "bilinear"),
    Kind("Latent (antialiased)", "bilinear", antialias=True),
    Kind("Latent (bicubic)", "bicubic"),
    Kind("Latent (bicubic antialiased)", "bicubic", antialias=True),
    Kind("Latent (nearest)", "nearest"),
    Kind("Latent (nearest-exact)", "nearest-exact"),
)
"""By AUTOMATIC1111's names."""

RESAMPLING = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
"""Pixels without a model, by AUTOMATIC1111's names."""


def names() -> tuple[str, ...]:
    """The upscalers that need no model file."""
    return (*(kind.label for kind in LATENT), *RESAMPLING)


def latent_kind(name: str) -> Kind | None:
    """The latent upscaler of that name, in any case; ``None``: it works on pixels."""
    return next((kind for kind in LATENT if kind.label.casefold() == name.strip().casefold()), None)


def resampling(name: str) -> Image.Resampling | None:
    """The plain resampling of that name, in any case; ``None``: it is the name of a model."""
    wanted = name.strip().casefold()
    if wanted == "none":  # what AUTOMATIC1111 calls it: no upscaler, only the size
        return Image.Resampling.LANCZOS
    return next((method for label, method in RESAMPLING.items() if label.casefold() == wanted), None)


def target_size(hires: Hires, base: Size) -> Size:
    """Width and height of the second pass, in pixels, multiples of 8 (rounded down, as AUTOMATIC1111 does).

    Of a width or height given alone the other follows the picture's proportions.
    """
    if hires.width is None and hires.height is None:
        return _whole(base[0] * hires.scale), _whole(base[1] * hires.scale)
    return (
        hires.width or _whole(base[0] * (hires.height or 0) / base[1]),
        hires.height or _whole(base[1] * (hires.width or 0) / base[0]),
    )


def _whole(length: float) -> int:
    return max(8, int(round(length, 6)) // 8 * 8)  # 800 × 1.15 is 919.99… in binary


def enlarge_latents(latents: Tensor, kind: Kind, size: Size, axes: Axes = "none") -> Tensor:
    """Latents (1 × 4 × height × width) at ``size`` (width and height in latents), cropped around their middle where the
    proportions differ. Along ``axes`` they go on at the opposite edge."""
    from torch.nn import functional

    height, width = latents.shape[-2:]
    covering = (max(size[0], -(-width * size[1] // height)), max(size[1], -(-height * size[0] // width)))
    # What is seamless lies between copies of itself, of which the middle one is kept.
    copies = (3 if axes in ("x", "both") else 1, 3 if axes in ("y", "both") else 1)
    antialias = {"antialias": True} if kind.antialias else {}
    enlarged = functional.interpolate(
        latents.repeat(1, 1, copies[1], copies[0]),
        size=(covering[1] * copies[1], covering[0] * copies[0]),
        mode=kind.mode,
        **antialias,
    )
    left = covering[0] * (copies[0] // 2) + (covering[0] - size[0]) // 2
    top = covering[1] * (copies[1] // 2) + (covering[1] - size[1]) // 2
    return enlarged[..., top : top + size[1], left : left + size[0]].contiguous()


def enlarge_picture(picture: Image.Image, size: Size, by: Upscaler | Image.Resampling, axes: Axes = "none") -> Work:
    """The RGB picture at ``size``, cropped around its middle where the proportions differ.

    A model works tile by tile and yields between them. Raises ``EngineFailed``.
    """
    from illustrious.images.diffusion.upscale import enlarge_to

    if isinstance(by, Image.Resampling):
        return ImageOps.fit(picture, size, by)
    return (yield from enlarge_to(by, picture, size, axes))
