"""Drawing over a picture, against diffusers' own pipelines: the same noise, the same latents."""

from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from illustrious.images.diffusion.canvas import spread
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.edit import Start, begin
from illustrious.images.diffusion.encode import encode, encode_pixels
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.editing import (
    TOLERANCE,
    Bench,
    canvas_of,
    difference,
    encode_without_chance,
    noise_of,
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
        (prediction, channels): Bench(tiny.Tiny(prediction=prediction, in_channels=channels).pipeline())
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


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_starter_gives_diffusers_latents_too(kind: str) -> None:
    bench = Bench(StableDiffusionXLPipeline.from_pretrained(starter_folder(), dtype=torch.float32))
    request = ImageRequest(init_image=png(PICTURE), strength=0.6, steps=8, seed=3)
    told = {"image": Image.fromarray(PICTURE), "strength": 0.6, "num_inference_steps": 8}
    expected = bench.theirs(bench.image, scheduler(bench, kind), 3, **told)
    assert difference(bench.ours(scheduler(bench, kind), request), expected) <= TOLERANCE
    request = request.model_copy(update={"mask": png(MASK), "mask_blur": 0})
    told |= {"mask_image": Image.fromarray(MASK), "width": 64, "height": 64}
    expected = bench.theirs(bench.inpaint, scheduler(bench, kind), 3, **told)
    assert difference(bench.ours(scheduler(bench, kind), request), expected) <= TOLERANCE


def start_of(bench: Bench, inpainting: bool = False, **fields: Any) -> tuple[Start, Tensor]:
    """The start of a request over ``PICTURE``, and its noise."""
    canvas = canvas_of(ImageRequest(**{"init_image": png(PICTURE), **fields}))
    noise, _ = noise_of(3, canvas.size)
    return begin(bench.text.vae, canvas, noise, inpainting), noise


@pytest.fixture(scope="module")
def bench(benches: dict[tuple[str, int], Bench]) -> Bench:
    return benches["epsilon", 4]


def test_a_picture_without_anything_to_start_from_is_noise_and_drawn_whole(bench: Bench) -> None:
    request = ImageRequest(width=64, height=48, steps=4, seed=3)
    expected = bench.theirs(
        bench.text, scheduler(bench, "EulerDiscreteScheduler"), 3, num_inference_steps=4, width=64, height=48
    )
    assert difference(bench.ours(scheduler(bench, "EulerDiscreteScheduler"), request), expected) <= TOLERANCE


@pytest.mark.parametrize("kind", SAMPLERS)
def test_strength_zero_leaves_the_clean_latents(bench: Bench, kind: str) -> None:
    request = ImageRequest(init_image=png(PICTURE), strength=0.0, steps=8, seed=3)
    latents = bench.ours(scheduler(bench, kind), request)
    assert torch.equal(latents, encode(bench.text.vae, Image.fromarray(PICTURE)))


def test_what_lies_under_the_mask_at_the_start_is_chosen(bench: Bench) -> None:
    starts = {
        fill: start_of(bench, mask=png(MASK), mask_blur=0, mask_fill=fill)
        for fill in ("original", "fill", "noise", "empty")
    }
    noise = starts["original"][1]
    latents = {fill: start.latents for fill, (start, _) in starts.items()}
    hole = (..., slice(2, 10), slice(4, 12))
    whole = encode(bench.text.vae, Image.fromarray(PICTURE))
    assert torch.equal(latents["original"], whole)
    assert torch.equal(latents["fill"], encode(bench.text.vae, spread(Image.fromarray(PICTURE), Image.fromarray(MASK))))
    assert torch.equal(latents["noise"][hole], noise[hole])
    assert (latents["empty"][hole] == 0).all()
    outside = torch.ones_like(whole, dtype=torch.bool)
    outside[hole] = False
    for fill in ("noise", "empty"):
        assert torch.equal(latents[fill][outside], whole[outside])


def test_a_grey_mask_blends_softly_and_a_latent_takes_the_mean_of_its_pixels(bench: Bench) -> None:
    grey = start_of(bench, mask=png(rectangle(64, 64, (0, 0, 64, 64), value=51)), mask_blur=0)[0]
    assert torch.allclose(grey.mask, torch.full((1, 1, 16, 16), 0.2))
    edge = start_of(bench, mask=png(rectangle(64, 64, (0, 0, 33, 64))), mask_blur=0)[0]
    assert torch.allclose(edge.mask[0, 0, 0, 7:10], torch.tensor([1.0, 0.25, 0.0]))


def test_what_a_mask_keeps_ends_as_it_was(bench: Bench) -> None:
    request = ImageRequest(init_image=png(PICTURE), mask=png(MASK), mask_blur=0, strength=1.0, steps=4, seed=3)
    latents = bench.ours(scheduler(bench, "EulerAncestralDiscreteScheduler"), request)
    kept = torch.ones(1, 4, 16, 16, dtype=torch.bool)
    kept[..., 2:10, 4:12] = False
    whole = encode(bench.text.vae, Image.fromarray(PICTURE))
    assert torch.equal(latents[kept], whole[kept])
    assert not torch.isclose(latents[~kept], whole[~kept]).any()


def test_an_inpainting_unet_with_nothing_to_keep_is_told_of_ones_and_grey(bench: Bench) -> None:
    vae = bench.text.vae
    grey = encode_pixels(vae, torch.zeros(1, 3, 64, 64))
    for fields in ({}, {"init_image": None, "width": 64, "height": 64}):
        fixed = start_of(bench, inpainting=True, **fields)[0].fixed
        assert fixed.shape == (1, 5, 16, 16)
        assert (fixed[:, :1] == 1).all()
        assert torch.equal(fixed[:, 1:], grey)


def test_an_inpainting_unet_is_told_of_a_hard_mask_and_never_what_is_under_it(bench: Bench) -> None:
    soft = MASK.astype(int) * 200 // 255
    fixed = start_of(bench, inpainting=True, mask=png(soft), mask_blur=2)[0].fixed
    assert set(fixed[:, 0].unique().tolist()) == {0.0, 1.0}
    hidden = PICTURE.copy()
    hidden[MASK > 0] = 0
    again = start_of(bench, inpainting=True, init_image=png(hidden), mask=png(soft), mask_blur=0)[0].fixed
    assert torch.equal(start_of(bench, inpainting=True, mask=png(soft), mask_blur=0)[0].fixed, again)


def test_a_region_drawn_alone_is_what_diffusers_draws_of_the_cropped_picture(bench: Bench) -> None:
    picture, mask = photo(128, 96), rectangle(128, 96, (64, 32, 96, 64))
    request = ImageRequest(
        init_image=png(picture),
        mask=png(mask),
        mask_blur=0,
        mask_padding=16,
        only_masked=True,
        width=64,
        height=64,
        strength=0.6,
        steps=5,
        seed=3,
    )
    assert canvas_of(request).region == (48, 16, 112, 80)
    expected = bench.theirs(
        bench.inpaint,
        scheduler(bench, "EulerDiscreteScheduler"),
        3,
        image=Image.fromarray(picture[16:80, 48:112]),
        mask_image=Image.fromarray(mask[16:80, 48:112]),
        strength=0.6,
        num_inference_steps=5,
        width=64,
        height=64,
    )
    assert difference(bench.ours(scheduler(bench, "EulerDiscreteScheduler"), request), expected) <= TOLERANCE
