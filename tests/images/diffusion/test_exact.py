"""Who may share a call: tried once for every shape, remembered, and never at the price of a bit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from illustrious.images.diffusion.exact import COUNTS, Sharing


@dataclass(eq=False)
class Sheet:
    """As much of a picture as matters here."""

    number: int
    group: str = "a model"
    shape: tuple[int, ...] = (77,)


class Device:
    """Bit-equal to alone up to ``most`` pictures a call. ``calls`` are how many each was for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: list[int] = []

    def predict(self, pictures: Sequence[Any]) -> list[Tensor]:
        self.calls.append(len(pictures))
        slip = 2.0**-20 if len(pictures) > self.most else 0.0
        return [torch.tensor(picture.number + slip) for picture in pictures]


def answered(sharing: Sharing, device: Device, pictures: Sequence[Any]) -> int:
    """For how many there was an answer, each that of the picture alone, the first one's among them."""
    answers = sharing.predict(device.predict, pictures)
    assert answers[0][0] is pictures[0]
    for picture, answer in answers:
        assert float(answer) == picture.number
    return len(answers)


EIGHT = [Sheet(number) for number in range(8)]


def test_every_count_is_tried_once_and_the_largest_that_changes_nothing_is_used() -> None:
    sharing, device = Sharing(), Device(most=4)
    assert [answered(sharing, device, EIGHT) for _ in range(6)] == [2, 3, 4, 6, 4, 4]
    # Tried: so many alone, and all of them together. A trial that failed gives the answers alone.
    assert device.calls == [*[1] * 2, 2, *[1] * 3, 3, *[1] * 4, 4, *[1] * 6, 6, 4, 4]
    assert [verdict for *_, verdict in (sharing.verdicts.items())] == [True, True, True, False]


def test_after_one_count_that_differs_larger_ones_are_not_tried() -> None:
    sharing, device = Sharing(), Device(most=1)
    assert [answered(sharing, device, EIGHT) for _ in range(3)] == [2, 1, 1]
    assert device.calls == [1, 1, 2, 1, 1]


@pytest.mark.parametrize(("there", "together"), [(1, 1), (2, 2), (3, 3), (5, 4), (7, 6), (8, 8), (20, 8)])
def test_of_so_many_as_many_share_as_a_tried_count_allows(there: int, together: int) -> None:
    sharing, device = Sharing(), Device(most=100)
    many = [Sheet(number) for number in range(there)]
    for _ in COUNTS:
        answered(sharing, device, many)
    assert answered(sharing, device, many) == together


def test_only_pictures_of_the_firsts_shape_share_its_call() -> None:
    sharing, device = Sharing(), Device(most=100)
    mixed = [Sheet(0), Sheet(1, shape=(154,)), Sheet(2), Sheet(3, shape=(154,))]
    assert answered(sharing, device, mixed) == 2
    assert {shape for _, shape, _ in sharing.verdicts} == {(77,)}


def test_what_was_found_holds_for_its_group_and_shape_alone() -> None:
    sharing = Sharing()
    good, bad = Device(most=100), Device(most=1)
    assert answered(sharing, good, [Sheet(0), Sheet(1)]) == 2
    answered(sharing, bad, [Sheet(0, group="another"), Sheet(1, group="another")])
    answered(sharing, bad, [Sheet(0, shape=(154,)), Sheet(1, shape=(154,))])
    assert list(sharing.verdicts.values()) == [True, False, False]
