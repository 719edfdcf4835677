"""The second pass: against diffusers' text-to-image, an interpolation, and its img2img."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from illustrious.images.diffusion.canvas import Canvas
from illustrious.images.diffusion.decode import decode
from illustrious.images.diffusion.edit import begin, begin_again
from illustrious.images.diffusion.encode import encode
from illustrious.images.diffusion.hires import (
    LATENT,
    enlarge_latents,
    enlarge_picture,
    latent_kind,
    names,
    resampling,
    target_size,
)
from illustrious.images.diffusion.placement import place
from illustrious.images.diffusion.upscale import Work, load
from illustrious.types import Hires, ImageRequest
from tests import tiny
from tests.esrgan import esrgan
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

PREDICTIONS = ("epsilon", "v_prediction")
SAMPLERS = ("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler")


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    return {prediction: Bench(tiny.Tiny(prediction=prediction).pipeline()) for prediction in PREDICTIONS}


@pytest.fixture(autouse=True)
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_without_chance(monkeypatch)


def picture_of(work: Work) -> Image.Image:
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def scheduler(bench: Bench, kind: str) -> Any:
    return getattr(diffusers, kind).from_config(bench.text.scheduler.config)


def second_pass(bench: Bench, kind: str, canvas: Canvas, latents: torch.Tensor, strength: float) -> torch.Tensor:
    noise, generator = noise_of(3, canvas.size)
    start = begin_again(bench.text.vae, canvas, latents, strength, inpainting=False)
    return bench.run(scheduler(bench, kind), canvas.size, start, 6, noise, generator)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("upscaler", ["latent", "Latent (bicubic antialiased)", "Latent (nearest-exact)"])
def test_two_passes_over_latents_give_diffusers_latents(
    benches: dict[str, Bench], upscaler: str, kind: str, prediction: str
) -> None:
    bench = benches[prediction]
    request = ImageRequest(width=64, height=48, steps=5, seed=3, hires=Hires(scale=1.5, upscaler=upscaler))
    canvas = canvas_of(request)
    first = bench.ours(scheduler(bench, kind), request)
    size = target_size(Hires(scale=1.5), canvas.size)
    found = latent_kind(upscaler)
    assert found is not None
    enlarged = enlarge_latents(first, found, (size[0] // 4, size[1] // 4))
    latents = second_pass(bench, kind, canvas.enlarged(size), enlarged, 0.6)

    theirs = bench.theirs(bench.text, scheduler(bench, kind), 3, num_inference_steps=5, width=64, height=48)
    assert difference(first, theirs) <= TOLERANCE
    antialias = {"antialias": True} if found.antialias else {}
    theirs = functional.interpolate(theirs, size=(18, 24), mode=found.mode, **antialias)
    theirs = bench.theirs(bench.image, scheduler(bench, kind), 3, image=theirs, strength=0.6, num_inference_steps=6)
    assert size == (96, 72)
    assert difference(latents, theirs) <= TOLERANCE


def test_two_passes_over_pixels_give_diffusers_latents(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["epsilon"]
    save_file(esrgan(2, plain=True), tmp_path / "2x.safetensors")
    upscaler = load(tmp_path / "2x.safetensors", place("cpu"))
    canvas = canvas_of(ImageRequest(width=64, height=48))
    first = bench.ours(scheduler(bench, SAMPLERS[0]), ImageRequest(width=64, height=48, steps=4, seed=3))
    small, _ = decode(bench.text.vae, first)
    large = picture_of(enlarge_picture(small, (128, 96), upscaler))
    assert np.array_equal(np.asarray(large), np.asarray(small).repeat(2, axis=0).repeat(2, axis=1))
    latents = second_pass(bench, SAMPLERS[0], canvas.enlarged((128, 96)), encode(bench.text.vae, large), 0.5)
    theirs = bench.theirs(
        bench.image, scheduler(bench, SAMPLERS[0]), 3, image=large, strength=0.5, num_inference_steps=6
    )
    assert difference(latents, theirs) <= TOLERANCE


def test_what_a_mask_keeps_is_kept_in_the_second_pass(benches: dict[str, Bench]) -> None:
    bench = benches["epsilon"]
    picture, mask = photo(64, 64), rectangle(64, 64, (16, 16, 48, 48))
    canvas = canvas_of(ImageRequest(init_image=png(picture), mask=png(mask), mask_blur=0))
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    drawn = second_pass(bench, SAMPLERS[0], canvas.enlarged((128, 128)), latents, 0.6)
    kept = torch.ones(1, 4, 32, 32, dtype=torch.bool)
    kept[..., 7:25, 7:25] = False  # one latent around the mask, whose edge is softened as it grows
    assert torch.equal(drawn[kept], latents[kept])
    inside = (..., slice(9, 23), slice(9, 23))
    assert not torch.isclose(drawn[inside], latents[inside]).any()
    finished = np.asarray(canvas.finish(decode(bench.text.vae, drawn)[0]))
    expected = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.LANCZOS))
    assert np.array_equal(finished[:28], expected[:28])


def test_an_inpainting_unet_is_told_anew_at_the_second_size(benches: dict[str, Bench]) -> None:
    vae = benches["epsilon"].text.vae
    request = ImageRequest(init_image=png(photo(64, 64)), mask=png(rectangle(64, 64, (16, 16, 48, 48))), mask_blur=0)
    canvas = canvas_of(request).enlarged((128, 128))
    start = begin_again(vae, canvas, torch.zeros(1, 4, 32, 32), 0.5, inpainting=True)
    assert start.mask is None
    assert start.fixed is not None
    assert start.fixed.shape == (1, 5, 32, 32)
    assert start.fixed[0, 0, 16, 16] == 1
    assert start.fixed[0, 0, 2, 2] == 0
    large = Image.fromarray(photo(64, 64)).resize((128, 128), Image.Resampling.LANCZOS)
    sent = {"init_image": png(np.asarray(large)), "mask": png(np.asarray(canvas.mask))}
    again = canvas_of(request.model_copy(update=sent))
    assert torch.equal(begin(vae, again, torch.zeros(1, 4, 32, 32), True).fixed, start.fixed)


@pytest.mark.parametrize(
    ("hires", "size"),
    [
        (Hires(), (128, 96)),
        (Hires(scale=1.5), (96, 72)),
        (Hires(scale=1.3), (80, 56)),
        (Hires(scale=1.0), (64, 48)),
        (Hires(width=128), (128, 96)),
        (Hires(height=96), (128, 96)),
        (Hires(width=96, height=96, scale=3), (96, 96)),
    ],
)
def test_the_size_of_the_second_pass(hires: Hires, size: tuple[int, int]) -> None:
    assert target_size(hires, (64, 48)) == size


def test_a_scale_that_binary_fractions_miss_still_reaches_its_multiple_of_eight() -> None:
    assert target_size(Hires(scale=1.15), (800, 800)) == (920, 920)


@pytest.mark.parametrize("kind", LATENT, ids=lambda kind: kind.label)
def test_latents_of_another_shape_cover_the_new_size_and_lose_what_sticks_out(kind: Any) -> None:
    latents = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    wide = enlarge_latents(latents, kind, (32, 16))
    assert wide.shape == (1, 4, 16, 32)
    assert torch.equal(wide, enlarge_latents(latents, kind, (32, 24))[..., 4:20, :])
    high = enlarge_latents(latents, kind, (16, 24))
    assert torch.equal(high, enlarge_latents(latents, kind, (32, 24))[..., 8:24])
    assert torch.equal(enlarge_latents(latents, kind, (16, 12)), latents) or kind.antialias


def test_seamless_latents_stay_so_when_they_grow() -> None:
    latents = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    for kind in LATENT:
        grown = enlarge_latents(latents, kind, (32, 24), "x")
        moved = enlarge_latents(latents.roll(8, -1), kind, (32, 24), "x")
        torch.testing.assert_close(grown.roll(16, -1), moved)
        plain = enlarge_latents(latents, kind, (32, 24))
        torch.testing.assert_close(grown[..., 4:-4], plain[..., 4:-4])


def test_pixels_of_another_shape_cover_the_new_size_and_lose_what_sticks_out() -> None:
    picture = Image.fromarray(photo(32, 24))
    nearest = picture_of(enlarge_picture(picture, (64, 32), Image.Resampling.NEAREST))
    expected = np.asarray(picture).repeat(2, axis=0).repeat(2, axis=1)[8:40]
    assert np.array_equal(np.asarray(nearest), expected)


def test_upscalers_without_a_file_go_by_the_web_uis_names() -> None:
    assert [latent_kind(name).label for name in ("latent", " Latent (Nearest) ")] == ["Latent", "Latent (nearest)"]
    assert resampling("lanczos") == resampling("None") == Image.Resampling.LANCZOS
    assert resampling("NEAREST") == Image.Resampling.NEAREST
    for name in names():
        assert (latent_kind(name) is None) != (resampling(name) is None)
    assert latent_kind("4x-UltraSharp") is None
    assert resampling("4x-UltraSharp") is None
