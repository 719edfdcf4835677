"""How many pictures share a call, and whose turn it is, by what calls have taken."""

from collections.abc import Callable

import pytest
import torch

from illustrious.images.diffusion.pace import KEPT, STALE, TRIES, Pace


class Device:
    """Takes ``seconds(pictures)`` for a call, by a clock of its own."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.pace = Pace(torch.device("cpu"), lambda: self.now)

    def call(self, pictures: int, theirs: bool | None = None) -> int:
        with self.pace.timing("kind", pictures, theirs):
            self.now += self.seconds(pictures)
        return pictures

    def calls(self, near: int, others: int = 0, times: int = 60) -> list[int]:
        return [self.call(self.pace.together("kind", near, others)) for _ in range(times)]


def test_as_many_share_a_call_as_are_fastest() -> None:
    idle_with_one = Device(lambda pictures: 1 + 0.1 * pictures)
    assert idle_with_one.calls(near=8)[-1] == 8
    best_with_four = Device(lambda pictures: 1 + 0.1 * pictures if pictures <= 4 else 0.5 * pictures)
    assert best_with_four.calls(near=8)[-1] == 4


def test_every_number_is_tried_a_few_times_from_one_on() -> None:
    assert (
        Device(lambda pictures: 1).calls(near=5, times=3 * (TRIES + 1) + 1)
        == [number for number in (1, 2, 4, 5) for _ in range(TRIES + 1)][: 3 * (TRIES + 1) + 1]
    )


@pytest.mark.parametrize("each", [1.0, 0.95])
def test_where_sharing_saves_next_to_nothing_pictures_are_drawn_one_by_one(each: float) -> None:
    tried = Device(lambda pictures: 1 if pictures == 1 else each * pictures).calls(near=4)
    assert tried[-1] == 1
    assert tried.count(1) > 40


def test_pictures_with_much_more_left_join_where_they_hardly_delay_the_first() -> None:
    launching_is_all = Device(lambda pictures: 1 + 0.05 * pictures)
    assert launching_is_all.calls(near=1, others=3)[-1] == 4
    arithmetic_is_all = Device(lambda pictures: 0.2 + 0.8 * pictures)
    assert arithmetic_is_all.calls(near=1, others=3)[-1] == 1
    assert arithmetic_is_all.calls(near=4)[-1] == 4  # among equals it still saves time


def test_a_device_that_was_busy_when_it_was_measured_is_measured_again() -> None:
    device = Device(lambda pictures: pictures)
    assert device.calls(near=2)[-1] == 1
    device.seconds = lambda pictures: 1
    assert device.calls(near=2, times=STALE + TRIES + KEPT)[-1] == 2


def test_the_first_call_of_a_number_is_not_judged_by() -> None:
    warm: set[int] = set()

    def seconds(pictures: int) -> float:
        first = pictures not in warm
        warm.add(pictures)
        return 100.0 if first else 1.0

    assert Device(seconds).calls(near=4)[-1] == 4


@pytest.mark.parametrize(("short", "long"), [(1, 1), (1, 5), (1, 10), (10, 1)])
def test_those_who_wait_have_a_third_of_the_time_however_long_their_calls_are(short: int, long: int) -> None:
    device = Device(lambda pictures: pictures)
    taken = {True: 0.0, False: 0.0}
    for _ in range(600):
        theirs = device.pace.is_due
        taken[theirs] += device.call(long if theirs else short, theirs)
    assert taken[True] / (taken[True] + taken[False]) == pytest.approx(1 / 3, abs=0.03)


def test_nothing_is_owed_for_calls_that_keep_nobody_waiting() -> None:
    device = Device(lambda pictures: pictures)
    device.call(4, theirs=True)
    for _ in range(100):
        device.call(4)
    assert not device.pace.is_due
    for _ in range(16):
        device.call(1, theirs=False)
    assert device.pace.is_due


def test_a_call_that_fails_teaches_nothing() -> None:
    device = Device(lambda pictures: 1)
    with pytest.raises(RuntimeError), device.pace.timing("kind", 1, theirs=True):
        raise RuntimeError
    assert device.pace.is_due
    assert device.calls(near=1, times=1) == [1]
