"""Parity: for the same noise the loop gives what diffusers' own pipelines give, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.denoise import denoise, predict
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.samplers import NAMES, sampler
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.drawing import begun, loaded
from tests.images.diffusion.drawing import latents as ours

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""

REQUEST = ImageRequest(prompt="a red apple on a table", negative_prompt="blue", steps=6, guidance=5, seed=3)


def reference(path: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(path, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def starter() -> tuple[Model, StableDiffusionXLPipeline]:
    return loaded(starter_folder()), reference(starter_folder())


def theirs(pipeline: Any, request: ImageRequest, **further: Any) -> torch.Tensor:
    latents: torch.Tensor = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        width=request.width,
        height=request.height,
        output_type="latent",
        **further,
    ).images
    return latents


def assert_same(mine: torch.Tensor, reference: torch.Tensor) -> None:
    assert float((mine - reference).abs().max() / reference.abs().max()) <= TOLERANCE


@pytest.mark.parametrize(
    "change",
    [{}, {"guidance": 1.0}, {"negative_prompt": ""}, {"width": 72, "height": 96}, {"steps": 1}, {"seed": 2**53 - 1}],
)
def test_the_starter_gives_diffusers_latents(
    starter: tuple[Model, StableDiffusionXLPipeline], change: dict[str, object]
) -> None:
    model, pipeline = starter
    request = REQUEST.model_copy(update=change)
    assert_same(ours(model, request), theirs(pipeline, request))


@pytest.mark.parametrize(
    "checkpoint",
    [tiny.Tiny(), tiny.Tiny(prediction="v_prediction"), tiny.Tiny(prediction="v_prediction", zero_snr=True)],
    ids=["eps", "v", "v with zero terminal SNR"],
)
def test_a_random_checkpoint_gives_diffusers_latents_from_either_layout(checkpoint: tiny.Tiny, tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "folder", checkpoint)
    file = tiny.write_single_file(tmp_path / "file.safetensors", checkpoint)
    pipeline = reference(folder)
    for change in ({}, {"negative_prompt": ""}):
        request = REQUEST.model_copy(update=change)
        expected = theirs(pipeline, request)
        assert_same(ours(loaded(folder), request), expected)
        assert_same(ours(loaded(file), request), expected)


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_every_scheduler_a_folder_may_ask_for_steps_as_in_diffusers(
    starter: tuple[Model, StableDiffusionXLPipeline], kind: str
) -> None:
    model, pipeline = starter
    used = sampler(kind, {**model.sampler.config, "timestep_spacing": "leading"})
    pipeline.scheduler = used.scheduler()
    model = replace(model, sampler=used)
    steps = list(denoise(model.unet, begun(model, REQUEST)))
    assert steps == list(range(1, REQUEST.steps + 1))
    # The pipeline overrides TCD's own amount of noise with 0 unless it is told the scheduler's default.
    further = {"eta": 0.3} if kind == "TCDScheduler" else {}
    assert_same(ours(model, REQUEST), theirs(pipeline, REQUEST, **further))


def test_a_step_count_that_a_sampler_cannot_take_is_the_requests_fault(
    starter: tuple[Model, StableDiffusionXLPipeline],
) -> None:
    model = replace(starter[0], sampler=sampler("LCMScheduler", starter[0].sampler.config))
    with pytest.raises(InvalidRequest, match="120 steps"):
        begun(model, REQUEST.model_copy(update={"steps": 120}))


def test_an_inpainting_unet_is_told_what_diffusers_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers samples the encoding of the masked picture; we take its mode, so for this test both do.
    mode = DiagonalGaussianDistribution.mode
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: mode(self))
    checkpoint = tiny.Tiny(in_channels=9)
    model = loaded(tiny.write_single_file(tmp_path / "inpainting.safetensors", checkpoint))
    pipeline = StableDiffusionXLInpaintPipeline(**checkpoint.pipeline().to(torch.float32).components)
    pipeline.set_progress_bar_config(disable=True)
    request = REQUEST.model_copy(update={"width": 64, "height": 64})
    everything = torch.ones(1, 1, 64, 64)
    expected = theirs(pipeline, request, image=torch.zeros(1, 3, 64, 64), mask_image=everything, strength=1.0)
    assert_same(ours(model, request), expected)


def test_a_unet_with_distilled_guidance_is_told_of_it_instead_of_drawing_a_second_half(folder: Path) -> None:
    model, pipeline = loaded(folder), reference(folder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(pipeline.unet.config, time_cond_proj_dim=64).eval()
    pipeline.register_modules(unet=unet)
    model = replace(model, unet=unet)
    assert_same(ours(model, REQUEST), theirs(pipeline, REQUEST))
    assert len(begun(model, REQUEST).told.halves) == 1


def test_without_guidance_the_unet_is_asked_for_one_half(starter: tuple[Model, StableDiffusionXLPipeline]) -> None:
    model, _ = starter
    for guidance, halves in ((1.0, 1), (1.5, 2)):
        picture = begun(model, REQUEST.model_copy(update={"guidance": guidance}))
        with torch.inference_mode():
            (answer,) = predict(model.unet, [picture])
        assert len(answer) == halves


@pytest.mark.parametrize("checkpoint", [tiny.Tiny(), tiny.Tiny(prediction="v_prediction")], ids=["eps", "v"])
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Heun", "DDIM"])
def test_the_estimate_of_a_picture_nears_it_and_is_it_at_the_end(
    checkpoint: tiny.Tiny, sampler: str, tmp_path: Path
) -> None:
    model = loaded(tiny.write_single_file(tmp_path / "tiny.safetensors", checkpoint))
    picture = begun(model, REQUEST.model_copy(update={"sampler": sampler, "steps": 8}))
    estimates = [picture.estimate() for _ in denoise(model.unet, picture)]
    distances = [float((estimate - picture.latents).abs().mean()) for estimate in estimates]
    assert distances[-1] < 0.05 * distances[0]
    assert distances[4] < distances[0]


def test_guidance_rescale_is_diffusers(starter: tuple[Model, StableDiffusionXLPipeline]) -> None:
    model, pipeline = starter[0], reference(starter_folder())
    request = REQUEST.model_copy(update={"guidance_rescale": 0.7})
    assert_same(ours(model, request), theirs(pipeline, request, guidance_rescale=0.7))


def test_the_picture_knows_where_it_stands_between_steps(starter: tuple[Model, StableDiffusionXLPipeline]) -> None:
    model, _ = starter
    picture = begun(model, REQUEST)
    loop = denoise(model.unet, picture)
    before = picture.latents
    assert next(loop) == picture.step == 1
    assert not torch.equal(picture.latents, before)
    assert not picture.done
    assert list(loop) == [2, 3, 4, 5, 6]
    assert picture.done
    assert not torch.is_inference_mode_enabled()
