"""What is drawn on: the picture sent in, brought to size, grown and masked, and how the drawn part is put back.

All of it in pixels, before any model is asked. Which part of the request means what is ``types.ImageRequest``'s to say;
fill modes, mask blur and the masked region are those of AUTOMATIC1111's web UI, so that its users find them again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from illustrious.errors import InvalidRequest, TooLarge
from illustrious.pictures import open_picture, to_rgb
from illustrious.types import ImageRequest, Outpaint

Size = tuple[int, int]
"""Width and height, in pixels."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels. May stick out of the picture."""

REACH = 2
"""How many times the mask's blur the drawn border of an outpainting goes into the picture: there a Gaussian has
fallen to 2 %, so the whole of the seam lies over old pixels, which have something to show through."""

FILL_RADII = (512, 256, 128, 64, 32, 16, 8, 4, 2)
"""Pixels over which colours spread into a hole, widest first."""


@dataclass(frozen=True)
class Canvas:
    """The picture to draw on, and the frame that is drawn.

    ``size`` is what the UNet draws. ``original`` is the picture sent in, RGB, as large as the result; ``None``: there
    is nothing but noise to begin with. ``mask`` (L, as large) is white where it is drawn anew, already blurred;
    ``None``: everywhere. ``region`` is the part of ``original`` drawn at ``size``; ``None``: all of it.

    ``asked`` is what the request's width and height stand for: put into the request they give this canvas again.
    ``draws`` is false when no step is to be drawn: then ``original`` is the result as it is.
    """

    size: Size
    asked: Size
    strength: float = 1.0
    fill: Literal["original", "fill", "noise", "empty"] = "original"
    original: Image.Image | None = None
    mask: Image.Image | None = None
    region: Box | None = None
    draws: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def result_size(self) -> Size:
        """Of the finished picture, when no hires pass follows."""
        return self.size if self.original is None else self.original.size

    def picture(self) -> Image.Image | None:
        """What lies under the brush: RGB, of ``size``, not yet filled."""
        if self.original is None or self.region is None:
            return self.original
        return _resized(_crop(self.original, self.region), self.size)

    def drawn(self) -> Image.Image | None:
        """The mask of ``picture``: L, of ``size``."""
        if self.mask is None or self.region is None:
            return self.mask
        return _resized(_crop(self.mask, self.region), self.size)

    def frame(self, picture: Image.Image) -> Image.Image:
        """Of a further picture of all that is shown (one to be guided by), the part that is drawn."""
        if self.original is None or self.region is None:
            return picture
        return _crop(_resized(picture, self.original.size), self.region)

    def enlarged(self, size: Size) -> Canvas:
        """The canvas of a second pass at ``size``. A region stays where it is, and is drawn in more detail."""
        if self.original is None or self.region is not None:
            return replace(self, size=size)
        mask = None if self.mask is None else _resized(self.mask, size)
        return replace(self, size=size, original=_resized(self.original, size), mask=mask)

    def finish(self, image: Image.Image) -> Image.Image:
        """The drawn ``image``, of ``size`` or enlarged, in place; pixels that the mask keeps are the original's."""
        if self.original is None or self.mask is None:
            return image
        if self.region is None:
            original, mask = _resized(self.original, image.size), _resized(self.mask, image.size)
            return Image.composite(image, original, mask)
        left, top, right, bottom = self.region
        layer = self.original.copy()
        layer.paste(_resized(image, (right - left, bottom - top)), (left, top))
        return Image.composite(layer, self.original, self.mask)


def lay_out(request: ImageRequest, native: Size, max_pixels: int) -> Canvas:
    """The canvas of a request, for a model that draws best at ``native``; pictures sent in have up to ``max_pixels``.

    Without ``width`` and ``height`` it has the size of the picture sent in, rounded to multiples of 8 (of one given
    alone, the other follows the picture's shape); a masked region drawn alone has the native size. What an outpainting
    adds comes on top. Raises ``InvalidRequest``.
    """
    if request.init_image is None:
        for field in ("mask", "outpaint"):
            if getattr(request, field) is not None:
                raise InvalidRequest(f"{field} needs a picture to go with: send init_image too.", field=field)
        size = (request.width or native[0], request.height or native[1])
        return Canvas(size=size, asked=size)
    picture = to_rgb(_opened(request.init_image, "init_image", max_pixels))
    mask = None if request.mask is None else _mask(request.mask, request.mask_invert, picture.size, max_pixels)
    outpaint = request.outpaint if request.outpaint is not None and any(vars(request.outpaint).values()) else None
    alone = request.only_masked and (mask is not None or outpaint is not None)
    asked = _asked(request, picture.size, native if alone else None)
    if not alone:
        picture = fit(picture, asked, request.fit)
        mask = None if mask is None else fit(mask, asked, request.fit)
    if outpaint is not None:
        mask = _outpainted(picture.size, mask, outpaint, request.mask_blur)
        picture = grow(picture, outpaint)
    elif mask is not None:
        mask = blurred(mask, request.mask_blur)
    if mask is not None and mask.getbbox() is None:
        raise InvalidRequest(
            "The mask keeps the whole picture, so there is nothing to draw. Paint white what is to be drawn anew, or "
            "turn it around with mask_invert.",
            field="mask",
        )
    return Canvas(
        size=asked if alone else picture.size,
        asked=asked,
        strength=request.strength,
        fill=request.mask_fill,
        original=picture,
        mask=mask,
        region=masked_region(mask, request.mask_padding, asked) if alone and mask is not None else None,
        draws=request.hires is not None or steps_drawn(request.steps, request.strength) > 0,
        warnings=tuple(_warnings(request, mask)),
    )


def steps_drawn(steps: int, strength: float) -> int:
    """How many of ``steps`` are drawn at ``strength``: rounded down, as in diffusers' ``get_timesteps``."""
    return min(int(steps * strength), steps)


def _warnings(request: ImageRequest, mask: Image.Image | None) -> list[str]:
    warnings = []
    if request.strength > 0 and steps_drawn(request.steps, request.strength) == 0:
        warnings.append(
            f"Strength {request.strength:g} of {request.steps} steps is less than one step, so nothing was drawn over "
            "the picture. Ask for more of either."
        )
    if request.only_masked and mask is None:
        warnings.append("only_masked has no effect without a mask.")
    return warnings


def _asked(request: ImageRequest, own: Size, otherwise: Size | None) -> Size:
    """Width and height where the request leaves them open: ``otherwise``, or the shape of the picture sent in."""
    width, height = request.width, request.height
    if width is None and height is None:
        return otherwise or (_eighth(own[0]), _eighth(own[1]))
    return (
        width or (otherwise[0] if otherwise else _eighth(own[0] * (height or 0) / own[1])),
        height or (otherwise[1] if otherwise else _eighth(own[1] * (width or 0) / own[0])),
    )


def _eighth(length: float) -> int:
    return max(8, round(length / 8) * 8)


def _opened(data: bytes, field: str, max_pixels: int) -> Image.Image:
    try:
        return open_picture(data, max_pixels)
    except (InvalidRequest, TooLarge) as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from error


def _mask(data: bytes, invert: bool, size: Size, max_pixels: int) -> Image.Image:
    mask = _resized(read_mask(_opened(data, "mask", max_pixels)), size)
    return ImageOps.invert(mask) if invert else mask


def read_mask(picture: Image.Image) -> Image.Image:
    """The grey picture (L) of a mask however it was painted: its alpha where anything is transparent, else its
    luminance. Greys are kept; they draw softly."""
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return to_rgb(picture).convert("L")


def blurred(mask: Image.Image, radius: float) -> Image.Image:
    """Softened by a Gaussian whose standard deviation is ``radius`` pixels."""
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def fit(picture: Image.Image, size: Size, how: Literal["stretch", "crop", "pad"]) -> Image.Image:
    """The picture (RGB), or its mask (L), at ``size``: stretched, cropped around its middle, or padded with the colours
    of its edges (a mask with black)."""
    if picture.size == size:
        return picture
    if how == "stretch":
        return _resized(picture, size)
    if how == "crop":
        return ImageOps.fit(picture, size, _method(picture))
    inner = ImageOps.contain(picture, size, _method(picture))
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    return _padded(inner, (left, top, size[0] - inner.width - left, size[1] - inner.height - top))


def _resized(picture: Image.Image, size: Size) -> Image.Image:
    return picture.resize(size, _method(picture))


def _method(picture: Image.Image) -> Image.Resampling:
    """Lanczos for pictures; not for masks, around whose edges it would ring."""
    return Image.Resampling.BILINEAR if picture.mode == "L" else Image.Resampling.LANCZOS


def grow(picture: Image.Image, by: Outpaint) -> Image.Image:
    """The picture with room around it, in the colours of its edges."""
    return _padded(picture, (by.left, by.top, by.right, by.bottom))


def _padded(picture: Image.Image, border: Box) -> Image.Image:
    """With ``border`` (left, top, right, bottom) around it: a picture's edges go on, a mask's are black."""
    left, top, right, bottom = border
    widths = ((top, bottom), (left, right))
    if picture.mode == "L":
        return Image.fromarray(np.pad(np.asarray(picture), widths))
    return Image.fromarray(np.pad(np.asarray(picture), (*widths, (0, 0)), mode="edge"))


def _outpainted(inner: Size, mask: Image.Image | None, by: Outpaint, blur: int) -> Image.Image:
    """The mask of a grown picture: all that is new, a soft border inside the old, and what was masked before."""
    size = (by.left + inner[0] + by.right, by.top + inner[1] + by.bottom)
    edge = REACH * blur
    kept = (
        by.left + (edge if by.left else 0),
        by.top + (edge if by.top else 0),
        size[0] - by.right - (edge if by.right else 0),
        size[1] - by.bottom - (edge if by.bottom else 0),
    )
    grown = Image.new("L", size, 255)
    if kept[0] < kept[2] and kept[1] < kept[3]:
        if mask is None:
            grown.paste(0, kept)
        else:
            grown.paste(_padded(mask, (by.left, by.top, by.right, by.bottom)).crop(kept), kept[:2])
    new = Image.new("L", size, 255)
    new.paste(0, (by.left, by.top, by.left + inner[0], by.top + inner[1]))
    return ImageChops.lighter(blurred(grown, blur), new)


def masked_region(mask: Image.Image, padding: int, shape: Size) -> Box:
    """The rectangle around everything that is not black, and ``padding`` pixels more, in the proportions of ``shape``.

    It grows to them around its middle and then moves into the picture; only what is wider or higher than the picture
    sticks out of it.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, mask.width), min(bottom + padding, mask.height)
    width, height = right - left, bottom - top
    wide, high = max(width, ceil(height * shape[0] / shape[1])), max(height, ceil(width * shape[1] / shape[0]))
    x, y = _placed(left, width, wide, mask.width), _placed(top, height, high, mask.height)
    return x, y, x + wide, y + high


def _placed(start: int, length: int, grown: int, limit: int) -> int:
    """Where a stretch begins that has grown around its middle, inside 0 … ``limit`` if it can be."""
    if grown > limit:
        return (limit - grown) // 2
    return min(max(start - (grown - length) // 2, 0), limit - grown)


def _crop(picture: Image.Image, box: Box) -> Image.Image:
    """The part of the picture in ``box``; where that sticks out, the picture's edges go on."""
    left, top, right, bottom = box
    out = (max(-left, 0), max(-top, 0), max(right - picture.width, 0), max(bottom - picture.height, 0))
    inside = picture.crop((left + out[0], top + out[1], right - out[2], bottom - out[3]))
    return _padded(inside, out) if any(out) else inside


def spread(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours around a hole spread into it: what is white in ``mask`` no longer shows.

    Blurs of falling radius in which the hole has no weight, each laid over the wider one by how much of it is known
    there. It begins with the mean of all that is kept, so that no hole is too wide; of a picture masked everywhere
    that is a middle grey.
    """
    kept = 1 - np.asarray(mask, dtype=np.float32) / 255
    pixels = np.asarray(picture, dtype=np.float32)
    bands = [*(pixels[..., channel] * kept for channel in range(3)), kept]
    total = float(kept.sum())
    mean = [float(band.sum()) / total if total else 127.5 for band in bands[:3]]
    filled = [np.full_like(kept, value) for value in mean]
    for radius in FILL_RADII:
        *colours, weight = (_smooth(band, radius) for band in bands)
        known = np.maximum(weight, 1e-6)
        # Twice over, as one layer over itself: the nearer colours win as soon as half a neighbourhood is known.
        share = 1 - (1 - np.clip(weight, 0, 1)) ** 2
        filled = [below + share * (above / known - below) for below, above in zip(filled, colours, strict=True)]
    whole = [below + kept * (pixels[..., channel] - below) for channel, below in enumerate(filled)]
    return Image.fromarray(np.clip(np.stack(whole, axis=-1).round(), 0, 255).astype(np.uint8))


def _smooth(band: np.ndarray, radius: int) -> np.ndarray:
    """Averages over squares of ``radius`` pixels, and lines between their middles: a blur at no cost, in floats, where
    Pillow's Gaussian knows only bytes and loses faint colours to rounding."""
    image = Image.fromarray(band)
    small = image.resize((ceil(image.width / radius), ceil(image.height / radius)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))
