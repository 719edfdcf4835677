"""Each family's profile."""

from typing import get_args

import pytest

from illustrious.catalog.families import Family
from illustrious.catalog.identity import Identity
from illustrious.catalog.prediction import Prediction
from illustrious.catalog.profiles import PROFILES, Profile, profile
from illustrious.images.diffusion.samplers import names
from illustrious.types import ImageRequest

V = Prediction(type="v_prediction", zero_snr=True)


def test_every_family_has_one() -> None:
    assert set(PROFILES) == set(get_args(Family))


@pytest.mark.parametrize("prediction", [Prediction(), V])
@pytest.mark.parametrize("family", get_args(Family))
def test_what_it_says_can_be_drawn(family: Family, prediction: Prediction) -> None:
    best = profile(Identity(kind="checkpoint", base="sdxl", family=family, prediction=prediction))
    ImageRequest(**best.model_dump(exclude={"buckets", "pixels"}, exclude_none=True))
    assert best.sampler is None or best.sampler in names().samplers
    assert best.schedule is None or best.schedule in names().schedules
    for width, height in best.buckets:
        assert width % 64 == height % 64 == 0 or (width, height) in ((1248, 1824), (1824, 1248))
        assert best.pixels and best.pixels[0] <= width * height <= best.pixels[1]


def test_v_prediction_wants_other_things_than_its_family() -> None:
    eps = profile(Identity(family="noobai", prediction=Prediction()))
    v = profile(Identity(family="noobai", prediction=V))
    assert (eps.sampler, eps.guidance, eps.guidance_rescale) == ("Euler a", 5.5, None)
    assert (v.sampler, v.guidance, v.guidance_rescale) == ("Euler", 4.5, 0.2)
    assert v.prompt_prefix == eps.prompt_prefix


def test_the_size_that_the_file_tells_goes_before_the_familys() -> None:
    assert profile(Identity(family="sdxl", width=64, height=64)).buckets == ((64, 64),)
    assert profile(Identity(family="sdxl", width=832, height=1216)).buckets[:2] == ((832, 1216), (1024, 1024))


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert profile(Identity(kind="checkpoint", base="other")) == Profile()
