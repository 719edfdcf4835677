"""What a picture of one thing, or of several of a kind, shows: told by its pixels, without anything learned.

>>> thing_colour(picture), ground_colour(picture), things(picture)
('purple', 'white', 2)
"""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from illustrious.vision.facts import oklab
from training.colours import main_colour, nearest
from training.icons import Pixels

DIFFERENT = 0.08
"""Distance in Oklab from the background's colour above which a pixel is of a thing."""

PART = 0.3
"""Of the largest thing's area: what is smaller is a part of something, or dirt."""


def ground_colour(picture: Pixels) -> str:
    """The word for the background of (h, w, 3) sRGB."""
    return nearest(_ground(picture))


def thing_colour(picture: Pixels) -> str:
    """The word for the main colour of what is before the background."""
    mask = _before_ground(picture)
    return main_colour(np.dstack([picture, 255 * mask.astype(np.uint8)]))[0]


def things(picture: Pixels) -> int:
    """How many pieces of about the same size there are before the background."""
    areas = _pieces(_before_ground(picture))
    return int((areas > PART * areas.max(initial=0)).sum())


def _ground(picture: Pixels) -> npt.NDArray[np.float64]:
    """The median colour along the edge."""
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return np.median(edge, axis=0)


def _before_ground(picture: Pixels) -> npt.NDArray[np.bool_]:
    distance = np.linalg.norm(oklab(picture) - oklab([_ground(picture)])[0], axis=-1)
    before: npt.NDArray[np.bool_] = distance > DIFFERENT
    return before


def _pieces(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Areas of the connected pieces: every pixel takes the largest number around it until none changes."""
    here = torch.from_numpy(mask)[None].float()
    numbers = torch.arange(1.0, mask.size + 1).reshape(here.shape) * here
    while True:
        spread = functional.max_pool2d(numbers, 3, stride=1, padding=1) * here
        if torch.equal(spread, numbers):
            break
        numbers = spread
    _, areas = numbers[numbers > 0].unique(return_counts=True)
    found: npt.NDArray[np.int64] = areas.numpy()
    return found
