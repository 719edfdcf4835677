"""Seamless pictures: nothing knows where the edge is, and nothing changes for the others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor, nn

from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.tiling import Axes, seamless
from tests import tiny

AXES: dict[Axes, tuple[int, ...]] = {"x": (-1,), "y": (-2,), "both": (-2, -1)}


@pytest.fixture(scope="module")
def model() -> StableDiffusionXLPipeline:
    return tiny.Tiny().pipeline().to(torch.float32)


def unet_of(pipeline: StableDiffusionXLPipeline) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    told = {"text_embeds": torch.randn(1, 32, generator=generator), "time_ids": torch.ones(1, 6) * 64}
    words = torch.randn(1, 77, 128, generator=generator)
    return lambda latents: pipeline.unet(latents, 500, words, added_cond_kwargs=told).sample


@torch.inference_mode()
def shift_error(network: nn.Module, call: Callable[[Tensor], Tensor], sample: Tensor, axes: Axes, along: int) -> float:
    """How far a network is from giving, for a picture moved around its edges by half, its answer moved as far."""
    with seamless(network, axes):
        plain = call(sample)
        moved = call(sample.roll(sample.shape[along] // 2, along))
    error = (moved - plain.roll(plain.shape[along] // 2, along)).abs().max() / plain.abs().max()
    return float(error)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("part", ["unet", "decoder", "encoder"])
def test_along_a_seamless_axis_nothing_knows_where_the_edge_is(
    model: StableDiffusionXLPipeline, part: str, axes: Axes
) -> None:
    shape = (1, 3, 64, 48) if part == "encoder" else (1, 4, 16, 24)
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    network = model.unet if part == "unet" else model.vae
    call = {
        "unet": unet_of(model),
        "decoder": lambda latents: model.vae.decode(latents).sample,
        "encoder": lambda pixels: model.vae.encode(pixels).latent_dist.mode(),
    }[part]
    for along in (-2, -1):
        error = shift_error(network, call, sample, axes, along)
        assert error < 1e-4 if along in AXES[axes] else error > 1e-2


@torch.inference_mode()
def test_before_and_after_a_seamless_picture_all_is_as_ever_to_the_bit(model: StableDiffusionXLPipeline) -> None:
    call = unet_of(model)
    sample = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    before = call(sample)
    with seamless(model.unet, "none"):
        assert torch.equal(call(sample), before)
    with seamless(model.unet, "both"):
        assert not torch.equal(call(sample), before)
    assert torch.equal(call(sample), before)
    with pytest.raises(RuntimeError, match="stop"), seamless(model.unet, "x"):
        raise RuntimeError("stop")
    assert torch.equal(call(sample), before)
    assert not any("_conv_forward" in vars(module) for module in model.unet.modules())


@pytest.mark.parametrize("padding", [1, (0, 2), "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@torch.inference_mode()
def test_an_axis_that_is_not_seamless_is_padded_as_the_convolution_says(padding: Any, mode: str) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode)
    sample = torch.randn(1, 2, 8, 8)
    plain = convolution(sample)
    with seamless(convolution, "x"):
        wrapped = convolution(sample)
    assert wrapped.shape == plain.shape
    torch.testing.assert_close(wrapped[..., 2:-2], plain[..., 2:-2])


def seam_and_inside(pixels: Tensor, along: int) -> tuple[float, float]:
    """The mean step from the last pixel to the first, and the largest mean step between two neighbours inside."""
    steps = (pixels - pixels.roll(1, along)).abs().mean(dim=tuple(axis for axis in (-3, -2, -1) if axis != along))
    return float(steps[0][0]), float(steps[0][1:].max())


@torch.inference_mode()
def test_a_picture_of_the_starter_continues_across_its_edges() -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(starter_folder(), dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pictures = {}
    for axes in ("none", "both"):
        with seamless(pipeline.unet, axes), seamless(pipeline.vae, axes):
            pictures[axes] = pipeline(
                "sunrise over mountains",
                num_inference_steps=12,
                guidance_scale=5.0,
                generator=torch.Generator().manual_seed(5),
                output_type="pt",
            ).images
    for along in (-2, -1):
        seam, inside = seam_and_inside(pictures["both"], along)
        assert seam <= inside
    # A sky and a ground do not meet by themselves.
    seam, inside = seam_and_inside(pictures["none"], -2)
    assert seam > inside
