"""Drawing over a picture, against diffusers' own pipelines: the same noise, the same latents."""

from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.editing import (
    TOLERANCE,
    Bench,
    difference,
    encode_without_chance,
    photo,
    png,
    rectangle,
)

PICTURE = photo(64, 64)
MASK = rectangle(64, 64, (16, 8, 48, 40))
SAMPLERS = ("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")
"""One that draws further noise, one with two turns a step, one that remembers its last steps."""
PREDICTIONS = ("epsilon", "v_prediction")


@pytest.fixture(scope="module")
def benches() -> dict[tuple[str, int], Bench]:
    return {
        (prediction, channels): Bench(tiny.Tiny(prediction=prediction, in_channels=channels))
        for prediction in PREDICTIONS
        for channels in (4, 9)
    }


@pytest.fixture(autouse=True)
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_without_chance(monkeypatch)


def scheduler(bench: Bench, kind: str) -> Any:
    return getattr(diffusers, kind).from_config(bench.text.scheduler.config)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_img2img_gives_diffusers_latents(
    benches: dict[tuple[str, int], Bench], kind: str, prediction: str, strength: float
) -> None:
    bench = benches[prediction, 4]
    request = ImageRequest(init_image=png(PICTURE), strength=strength, steps=8, seed=3)
    expected = bench.theirs(
        bench.image,
        scheduler(bench, kind),
        3,
        image=Image.fromarray(PICTURE),
        strength=strength,
        num_inference_steps=8,
    )
    assert difference(bench.ours(scheduler(bench, kind), request), expected) <= TOLERANCE


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_inpainting_gives_diffusers_latents(
    benches: dict[tuple[str, int], Bench], kind: str, prediction: str, strength: float, channels: int
) -> None:
    bench = benches[prediction, channels]
    request = ImageRequest(init_image=png(PICTURE), mask=png(MASK), mask_blur=0, strength=strength, steps=8, seed=3)
    expected = bench.theirs(
        bench.inpaint,
        scheduler(bench, kind),
        3,
        image=Image.fromarray(PICTURE),
        mask_image=Image.fromarray(MASK),
        strength=strength,
        num_inference_steps=8,
        width=64,
        height=64,
    )
    assert difference(bench.ours(scheduler(bench, kind), request), expected) <= TOLERANCE
