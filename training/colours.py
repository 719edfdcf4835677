"""Colour words: what each looks like, what an icon's own colour is called, and an icon drawn in another colour.

Everything is done in Oklab (``illustrious.vision.facts.oklab``), where equal distances look equally different.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from illustrious.vision.facts import oklab
from training.icons import Pixels

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (221, 46, 68),
    "orange": (244, 134, 26),
    "yellow": (255, 210, 60),
    "green": (82, 165, 60),
    "blue": (50, 115, 225),
    "light blue": (130, 200, 250),
    "purple": (140, 75, 185),
    "pink": (245, 140, 190),
    "brown": (130, 85, 55),
    "black": (35, 35, 40),
    "white": (248, 248, 248),
    "gray": (145, 150, 155),
}
"""Colour words and a typical sRGB value of each, in the palette of icons."""

_LAB = oklab(list(COLOURS.values()))

GREY_CHROMA = 0.04
"""Oklab chroma below which a pixel has no hue to speak of."""

OUTLINE = 0.25
"""Oklab lightness below which a pixel is an outline or a pupil, which keeps its colour."""


def nearest(srgb: npt.ArrayLike) -> str:
    """The word for one sRGB colour 0 … 255. Lightness counts half: a shade of red is still red."""
    lab = oklab(srgb)
    distance = np.linalg.norm((lab - _LAB) * [0.5, 1, 1], axis=1)
    if np.hypot(*lab[1:]) < GREY_CHROMA:
        distance[[index for index, name in enumerate(COLOURS) if name not in ("black", "white", "gray")]] = np.inf
    return list(COLOURS)[int(distance.argmin())]


def main_colour(pixels: Pixels) -> tuple[str, float]:
    """What an RGBA icon's main colour is called, and the share of its pixels that have it."""
    lab, alpha = oklab(pixels[..., :3]), pixels[..., 3] / 255
    part = _main_part(lab, alpha)
    total = float(alpha.sum())
    if total == 0 or not part.any():
        return "black", 0.0
    mean = np.average(pixels[part][:, :3].astype(float), axis=0)
    return nearest(mean), float((alpha * part).sum()) / total


def painted(pixels: Pixels, colour: Sequence[int]) -> Pixels:
    """An RGBA icon with its main part in another sRGB colour; shading, outlines and other parts stay."""
    lab, alpha = oklab(pixels[..., :3]), pixels[..., 3] / 255
    part = _main_part(lab, alpha)
    if not part.any():
        return pixels
    target = oklab([colour])[0]
    mean = lab[part].mean(axis=0)
    moved = lab[part] - mean
    moved[:, 1:] *= 0.4  # what differed in hue differs less in the new colour, or two colours would be seen
    changed = pixels.copy()
    changed[part, :3] = _srgb(target + moved)
    return changed


def _main_part(lab: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The pixels of the commonest hue, or those without a hue where they are the most; never the outlines."""
    seen = (alpha > 0.05) & (lab[..., 0] > OUTLINE)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    angle = np.arctan2(lab[..., 2], lab[..., 1])
    coloured, grey = seen & (chroma >= GREY_CHROMA), seen & (chroma < GREY_CHROMA)
    if coloured.sum() < 0.35 * seen.sum():
        return grey
    histogram, edges = np.histogram(angle[coloured], bins=36, range=(-np.pi, np.pi), weights=alpha[coloured])
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    centre = edges[int(smooth.argmax())] + np.pi / 36
    away = np.abs((angle - centre + np.pi) % (2 * np.pi) - np.pi)
    part: npt.NDArray[np.bool_] = coloured & (away < np.deg2rad(32))
    return part


def _srgb(lab: npt.NDArray[np.float64]) -> Pixels:
    """(n, 3) Oklab → (n, 3) sRGB, the inverse of ``oklab`` (Björn Ottosson, 2020), clipped to what sRGB can show."""
    cones = lab @ np.linalg.inv(
        np.array(
            [
                [0.2104542553, 1.9779984951, 0.0259040371],
                [0.7936177850, -2.4285922050, 0.7827717662],
                [-0.0040720468, 0.4505937099, -0.8086757660],
            ]
        )
    )
    linear = cones**3 @ np.linalg.inv(
        np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
    )
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rounded: Pixels = np.round(encoded * 255).astype(np.uint8)
    return rounded
