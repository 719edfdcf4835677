"""Pictures share a call of the UNet and keep every bit.

Matrix products of another height may be summed in another order, and then a picture would depend on what is drawn
beside it. Whether they are is a matter of the device, its libraries and the shapes, and nothing that can be read
anywhere: so it is tried, once for every shape, with the pictures that are there.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from illustrious.images.diffusion.denoise import Picture

COUNTS = (2, 3, 4, 6, 8)
"""How many pictures may share a call; once one count differs from alone, larger ones are not tried."""

Predict = Callable[[Sequence[Picture]], list[Tensor]]


class Sharing:
    """What has been found so far. ``verdicts``: whether so many pictures of a shape together are bit for bit each
    alone."""

    def __init__(self) -> None:
        self.verdicts: dict[tuple[Hashable, Hashable, int], bool] = {}

    def able(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Those that may share a call with the first, by what has been found, or that it is still to be tried with."""
        first = pictures[0]
        alike = [first, *(picture for picture in pictures[1:] if picture.shape == first.shape)]
        able = 1
        for count in COUNTS:
            if count > len(alike) or self.verdicts.get((first.group, first.shape, count)) is False:
                break
            able = count
        return alike[:able]

    def predict(self, predict: Predict, pictures: Sequence[Picture]) -> list[tuple[Picture, Tensor]]:
        """The answers for the first picture, and for as many others of its shape as may share its call.

        All ``pictures`` are of one group.
        """
        able = self.able(pictures)
        first = able[0]
        for count in COUNTS:
            if count <= len(able) and (first.group, first.shape, count) not in self.verdicts:
                return self._tried(predict, able[:count])
        return list(zip(able, predict(able), strict=True))

    def _tried(self, predict: Predict, pictures: Sequence[Picture]) -> list[tuple[Picture, Tensor]]:
        alone = [predict([picture])[0] for picture in pictures]
        together = predict(pictures)
        first = pictures[0]
        self.verdicts[first.group, first.shape, len(pictures)] = all(map(torch.equal, alone, together))
        return list(zip(pictures, alone, strict=True))


def tried_up_to(count: int) -> int:
    """The largest number of pictures up to ``count`` that is tried.

    >>> tried_up_to(5), tried_up_to(1)
    (4, 1)
    """
    return max(number for number in (1, *COUNTS) if number <= count)
