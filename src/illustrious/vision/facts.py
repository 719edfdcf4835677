"""What can be measured in a picture without any model: colours, light, contrast, sharpness, composition.

Everything is measured on a copy of at most 512 pixels a side, so it takes milliseconds whatever the size, and
sharpness means sharpness at that size. Lightness runs from 0 (black) to 1 (white) as the eye sees it.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from illustrious.types import Noun

Array = npt.NDArray[np.float64]

MEASURED_SIDE = 512

COLOURS = {
    "black": (0, 0, 0),
    "dark grey": (70, 70, 70),
    "grey": (128, 128, 128),
    "light grey": (200, 200, 200),
    "white": (255, 255, 255),
    "red": (225, 20, 25),
    "dark red": (120, 10, 20),
    "pink": (255, 165, 190),
    "magenta": (225, 20, 170),
    "orange": (255, 140, 0),
    "peach": (255, 205, 170),
    "brown": (120, 70, 30),
    "tan": (205, 170, 125),
    "beige": (240, 228, 205),
    "yellow": (255, 230, 0),
    "olive": (120, 120, 20),
    "lime": (150, 240, 40),
    "green": (20, 150, 40),
    "dark green": (10, 70, 25),
    "light green": (150, 220, 150),
    "teal": (0, 128, 128),
    "turquoise": (60, 210, 195),
    "cyan": (0, 235, 255),
    "light blue": (150, 205, 245),
    "blue": (20, 80, 230),
    "navy": (10, 20, 90),
    "purple": (125, 40, 160),
    "lavender": (195, 170, 235),
}
"""Common colour names and a typical sRGB value of each. A colour is called by the nearest of these in Oklab."""

NEXT_TO_GREY = 0.025
"""Oklab chroma below which a colour is seen as grey."""


class Colour(Noun):
    """``share`` of the picture, from 0 to 1."""

    name: str
    share: float


class Facts(Noun):
    """``contrast``: lightness of the lightest places less that of the darkest. ``sharpness``: how steep the steepest
    edges are, from 0 to about 1; ``None`` where there is no edge to tell by. ``background``: the colour that nearly
    all of the rim has. ``focus``: the ninth of the picture, or the strip of three, that holds most of the detail;
    ``None`` when it is spread out. ``detail``: share of the picture that is edges.
    """

    width: int
    height: int
    colours: tuple[Colour, ...]
    colourful: bool
    lightness: float
    contrast: float
    sharpness: float | None
    background: str | None
    focus: str | None
    detail: float

    @property
    def orientation(self) -> Literal["portrait", "landscape", "square"]:
        return orientation(self.width, self.height)


def orientation(width: int, height: int) -> Literal["portrait", "landscape", "square"]:
    """Square within two percent."""
    if abs(width - height) <= 0.02 * max(width, height):
        return "square"
    return "portrait" if height > width else "landscape"


def measure(picture: Image.Image) -> Facts:
    """The facts of an RGB picture."""
    small = _reduced(picture)
    pixels = np.asarray(small)
    lab = oklab(pixels)
    lightness = lab[..., 0]
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    darkest, lightest = np.quantile(lightness, (0.05, 0.95))
    edges = _edges(lightness)
    return Facts(
        width=picture.width,
        height=picture.height,
        colours=dominant_colours(small),
        colourful=bool(np.quantile(chroma, 0.99) > 0.03),
        lightness=float(lightness.mean()),
        contrast=float(lightest - darkest),
        sharpness=_sharpness(lightness, edges),
        background=_background(pixels),
        focus=_focus(edges),
        detail=float((edges > 0.05).mean()),
    )


def _reduced(picture: Image.Image) -> Image.Image:
    scale = MEASURED_SIDE / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def oklab(srgb: npt.ArrayLike) -> Array:
    """(…, 3) sRGB 0 … 255 → (…, 3) Oklab: lightness 0 … 1, and two colour axes (Björn Ottosson, "A perceptual color
    space for image processing", 2020; sRGB decoding: IEC 61966-2-1)."""
    encoded = np.asarray(srgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: Array = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab


def names(srgb: npt.ArrayLike) -> list[str]:
    """The colour name of each of (n, 3) sRGB values 0 … 255.

    What has next to no chroma is black, white or a grey, however near a pale colour lies; and since a shade of a colour
    is still called by the colour, lightness counts half.
    """
    weights = np.array([0.5, 1.0, 1.0])
    known, asked = oklab(list(COLOURS.values())), oklab(srgb)
    distance = np.linalg.norm((asked[:, None] - known) * weights, axis=2)
    without_chroma = np.linalg.norm(asked[:, 1:], axis=1) < NEXT_TO_GREY
    greys = np.linalg.norm(known[:, 1:], axis=1) < NEXT_TO_GREY
    distance[np.ix_(without_chroma, ~greys)] = np.inf
    return [list(COLOURS)[index] for index in distance.argmin(axis=1)]


def dominant_colours(picture: Image.Image, at_least: float = 0.05, at_most: int = 5) -> tuple[Colour, ...]:
    """Colour names by their share of an RGB picture, largest first; always one, the largest, at least."""
    shares = _shares(np.asarray(picture))
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:at_most]
    return tuple(
        Colour(name=name, share=share) for rank, (name, share) in enumerate(ranked) if share >= at_least or rank == 0
    )


def _shares(pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Share of each colour name. Counted in cells of 8×8×8 levels first, so that few colours need a name."""
    cells = (pixels.reshape(-1, 3) >> 3).astype(np.int64) @ np.array([1024, 32, 1])
    used, counts = np.unique(cells, return_counts=True)
    levels = np.stack([used >> 10, (used >> 5) & 31, used & 31], axis=1) * (255 / 31)
    shares: dict[str, float] = {}
    for name, count in zip(names(levels), counts, strict=True):
        shares[name] = shares.get(name, 0.0) + float(count) / len(cells)
    return shares


def _edges(lightness: Array) -> Array:
    """Steepness at each pixel: the change of lightness to the next pixel, right and down together."""
    right = np.diff(lightness, axis=1, append=lightness[:, -1:])
    down = np.diff(lightness, axis=0, append=lightness[-1:])
    return np.hypot(right, down)


def _sharpness(lightness: Array, edges: Array) -> float | None:
    """The steepest edges against the picture's whole range of lightness: 1 when black meets white within a pixel."""
    extent = float(np.ptp(lightness))
    if extent < 0.1:
        return None
    return float(min(np.quantile(edges, 0.999) / extent, 1.0))


def _background(pixels: npt.NDArray[np.uint8]) -> str | None:
    height, width = pixels.shape[:2]
    rim = max(1, round(min(height, width) * 0.04))
    strips = (pixels[:rim], pixels[-rim:], pixels[:, :rim], pixels[:, -rim:])
    shares = _shares(np.concatenate([strip.reshape(-1, 3) for strip in strips]))
    name = max(shares, key=lambda name: shares[name])
    return name if shares[name] >= 0.85 else None


def _focus(edges: Array) -> str | None:
    """Where most of the detail is: in one ninth if two fifths are there, else in one strip if three fifths are."""
    total = float(edges.sum())
    if total <= 0 or min(edges.shape) < 3:
        return None
    rows = np.array_split(edges, 3, axis=0)
    shares = np.array([[cell.sum() / total for cell in np.array_split(row, 3, axis=1)] for row in rows])
    row, column = divmod(int(shares.argmax()), 3)
    vertical, horizontal = ("top", "middle", "bottom")[row], ("left", "middle", "right")[column]
    if shares[row, column] >= 0.4:
        return "centre" if (row, column) == (1, 1) else f"{vertical} {horizontal}"
    by_row, by_column = shares.sum(axis=1), shares.sum(axis=0)
    if by_column.max() >= max(0.6, by_row.max()):
        return ("left third", "middle third, from top to bottom", "right third")[int(by_column.argmax())]
    if by_row.max() >= 0.6:
        return ("top third", "middle third, from left to right", "bottom third")[int(by_row.argmax())]
    return None
