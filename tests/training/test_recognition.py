import math

import pytest
from training.recognition import Verdict, scores, sure_from, verdicts
from training.specimens import Specimen, Truth

from tests.training.tiny import icons
from tests.vision.test_drawing import drawing

KINDS = {"fox": "an animal", "wolf": "an animal", "rocket": "a vehicle"}
FOX = Truth(("fox",), "red", "white", "one")


def test_scores_are_shares_of_the_pictures_they_are_about() -> None:
    judged = [
        Verdict(drawing(("fox", 0.9), ("wolf", 0.05)), FOX),
        Verdict(drawing(("wolf", 0.5), ("fox", 0.3), colour="brown", sure=False), FOX),
        Verdict(drawing(("rocket", 0.9)), FOX),
        Verdict(drawing(("fox", 0.9)), Truth()),
        Verdict(drawing(("fox", 0.2), drawn=0.1), Truth()),
    ]
    found = scores(judged, KINDS)
    assert found.top_1 == pytest.approx(1 / 3)
    assert found.top_5 == pytest.approx(2 / 3)
    assert found.kind == pytest.approx(2 / 3)
    assert found.colour == pytest.approx(2 / 3)
    assert found.said == pytest.approx(2 / 3)
    assert found.right_when_said == pytest.approx(1 / 3)  # the fox, not the rocket and not the fox that is none
    assert found.claimed == 0.5
    assert math.isnan(scores(judged[:3], KINDS).claimed)


def test_of_two_different_things_both_must_be_right() -> None:
    pair = Truth(("fox", "rocket"), None, "white", "different")
    assert Verdict(drawing(("rocket", 0.5), ("fox", 0.4), amount="different"), pair).right
    assert not Verdict(drawing(("rocket", 0.5), ("wolf", 0.4), amount="different"), pair).right
    assert not Verdict(drawing(("rocket", 0.5), ("fox", 0.4)), pair).right
    assert Verdict(drawing(("fox", 0.6), ("rocket", 0.05), amount="different"), FOX).certainty == 0.6


def test_sure_is_where_enough_of_what_is_at_least_as_likely_is_right() -> None:
    right = [Verdict(drawing(("fox", probability)), FOX) for probability in (0.9, 0.8, 0.7, 0.5)]
    wrong = [Verdict(drawing(("wolf", probability)), FOX) for probability in (0.6, 0.4)]
    assert sure_from(right + wrong, 1.0) == pytest.approx(0.7)
    assert sure_from(right + wrong, 0.8) == pytest.approx(0.5)
    assert sure_from(wrong, 0.5) == 1.0
    assert sure_from([], 0.5) == 1.0


def test_pictures_are_looked_at_in_batches_and_in_order() -> None:
    pixels = icons()[0].pixels[..., :3]
    truths = [Truth((f"thing {number}",)) for number in range(5)]
    sizes = []

    def look(pictures: object) -> list[object]:
        sizes.append(len(pictures))  # type: ignore[arg-type]
        return [drawing(("fox", 0.9))] * sizes[-1]

    found = verdicts(look, (Specimen(pixels, truth) for truth in truths), batch=2)  # type: ignore[arg-type]
    assert sizes == [2, 2, 1]
    assert [verdict.truth for verdict in found] == truths
