"""What fast leaves out: how far its pictures are from exact ones, and that it is left out and nothing else."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.likeness import psnr, ssim
from PIL import Image
from torch import Tensor

from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.controlnet import Residuals
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.parts import TIME_IDS
from illustrious.images.diffusion.shortcuts import EVERY, FEWEST_STEPS, forward
from illustrious.types import Control, Hires, ImageRequest, Lora
from tests import tiny_controlnet, tiny_lora
from tests.images.diffusion.drawing import decoded, latents, loaded
from tests.images.diffusion.editing import photo, png, rectangle

RED = ImageRequest(prompt="a red apple", steps=12, guidance=5, seed=1)


def at(request: ImageRequest, speed: str) -> ImageRequest:
    return ImageRequest.model_validate({**request.model_dump(exclude={"exact"}), "speed": speed})


@pytest.fixture(scope="module")
def starter() -> Model:
    return loaded(starter_folder())


@pytest.fixture(scope="module")
def model(single_file: Path) -> Model:
    """On a processor that gains nothing by rounding, whichever this is."""
    model = loaded(single_file)
    model.rounded = None
    return model


# The UNet in two parts


def given(unet: Any, width: int, height: int, rows: int = 2) -> dict[str, Any]:
    """Arguments of ``forward``, at random."""
    random = torch.Generator().manual_seed(0)
    pooled = unet.config.projection_class_embeddings_input_dim - TIME_IDS * unet.config.addition_time_embed_dim
    return {
        "sample": torch.randn(rows, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.full((rows,), 500.0),
        "embeddings": torch.randn(rows, 77, unet.config.cross_attention_dim, generator=random),
        "added": {
            "text_embeds": torch.randn(rows, pooled, generator=random),
            "time_ids": torch.randn(rows, TIME_IDS, generator=random),
        },
    }


def whole(unet: Any, arguments: dict[str, Any], residuals: Residuals | None = None) -> Tensor:
    answer: Tensor = unet(
        arguments["sample"],
        arguments["timestep"],
        encoder_hidden_states=arguments["embeddings"],
        added_cond_kwargs=arguments["added"],
        return_dict=False,
        **(residuals.named if residuals is not None else {}),
    )[0]
    return answer


@pytest.mark.parametrize("size", [(16, 16), (18, 10)], ids=["even", "odd below"])
@torch.inference_mode()
def test_both_parts_are_the_unet_to_the_bit(starter: Model, model: Model, size: tuple[int, int]) -> None:
    for unet in (starter.unet, model.unet):
        arguments = given(unet, *size)
        answer, deep = forward(unet, **arguments)
        assert torch.equal(answer, whole(unet, arguments))
        assert torch.equal(forward(unet, **arguments, deep=deep)[0], answer)


@torch.inference_mode()
def test_both_parts_are_guided_as_the_unet_is(model: Model) -> None:
    arguments = given(model.unet, 16, 16)
    down, middle = tiny_controlnet.controlnet(model.unet)(
        arguments["sample"],
        arguments["timestep"],
        encoder_hidden_states=arguments["embeddings"],
        controlnet_cond=torch.rand(2, 3, 64, 64),
        added_cond_kwargs=arguments["added"],
        return_dict=False,
    )
    guided = Residuals(tuple(down), middle)
    answer, deep = forward(model.unet, **arguments, residuals=guided)
    assert torch.equal(answer, whole(model.unet, arguments, guided))
    assert not torch.equal(answer, whole(model.unet, arguments))
    assert torch.equal(forward(model.unet, **arguments, residuals=guided, deep=deep)[0], answer)


# What is left out

ASKED = [turn for turn in range(RED.steps) if turn == 0 or (RED.steps - 1 - turn) % EVERY == 0]
"""Turns at which the deep blocks are asked: the first and the last, and each third before that."""


@contextmanager
def watched(block: Any) -> Iterator[list[int]]:
    """With how many rows it is called."""
    rows: list[int] = []
    hook = block.register_forward_hook(lambda block, given, answer: rows.append(len(answer)))
    try:
        yield rows
    finally:
        hook.remove()


def test_of_some_turns_one_asks_the_deep_blocks(model: Model) -> None:
    with watched(model.unet.mid_block.resnets[0]) as deep, watched(model.unet.conv_out) as answers:
        assert decoded(model, at(RED, "fast")).warnings == ()
    assert answers == [2] * RED.steps
    assert len(deep) == len(ASKED)


@pytest.mark.parametrize("speed", ["exact", "balanced"])
def test_otherwise_nothing_is(model: Model, speed: str) -> None:
    with watched(model.unet.mid_block.resnets[0]) as deep:
        latents(model, at(RED, speed))
    assert deep == [2] * RED.steps


def test_balanced_alone_is_exact(model: Model) -> None:
    """To the bit, where nothing is compiled or rounded: all that company changes is rounding."""
    assert torch.equal(latents(model, at(RED, "balanced")), latents(model, RED))


def test_a_prompt_that_changes_is_read_before_it_is_repeated(model: Model) -> None:
    changing = RED.model_copy(update={"prompt": "a [red apple|blue car]"})
    with watched(model.unet.mid_block.resnets[0]) as deep:
        latents(model, at(changing, "fast"))
    assert len(deep) == RED.steps  # another prompt at every turn


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"steps": FEWEST_STEPS - 1}, f"With {FEWEST_STEPS - 1} steps"),
        ({"sampler": "LCM", "steps": 20}, "With LCM"),
        ({"init_image": png(photo(64, 64)), "strength": 0.5}, "With 6 steps"),
        ({"hires": Hires(scale=1.5, strength=0.5)}, "With 6 steps"),
    ],
)
def test_where_nothing_can_be_left_out_the_result_says_so(model: Model, change: dict[str, Any], why: str) -> None:
    request = RED.model_copy(update=change)
    result = decoded(model, at(request, "fast"))
    assert [why in warning for warning in result.warnings] == [True]
    assert decoded(model, at(request, "balanced")).warnings == ()
    if "hires" not in change:
        assert result.image == decoded(model, request).image


# With all that a request may ask for


def test_everything_else_acts_in_fast_pictures_as_in_exact_ones(model: Model, tmp_path: Path) -> None:
    """Each kind of request is drawn, and what it asks for changes the picture."""
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    tiny_controlnet.write_folder(tmp_path / "controlnet" / "edges", tiny_controlnet.controlnet(model.unet))
    picture = png(photo(64, 64))
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "lora": {"loras": (Lora(name="style"),)},
        "control": {"control": (Control(model="edges", image=picture),)},
        "tiling": {"tiling": "both"},
        "second order": {"sampler": "Heun"},
        "no guidance": {"guidance": 1.0},
        "two chunks": {"prompt": "apple " * 40},
        "inpaint": {"init_image": picture, "mask": png(rectangle(64, 64, (16, 16, 48, 48))), "strength": 1.0},
        "hires": {"hires": Hires(scale=1.5, strength=1.0)},
    }
    ends = {kind: latents(model, at(RED.model_copy(update=change), "fast"), tmp_path) for kind, change in kinds.items()}
    flat = {kind: tuple(end.flatten().tolist()) for kind, end in ends.items()}
    assert len(set(flat.values())) == len(kinds)
    assert all(bool(end.isfinite().all()) for end in ends.values())


def test_a_controlnet_is_asked_when_the_deep_blocks_are(model: Model, tmp_path: Path) -> None:
    tiny_controlnet.write_folder(tmp_path / "controlnet" / "edges", tiny_controlnet.controlnet(model.unet))
    guided = RED.model_copy(update={"control": (Control(model="edges", image=png(photo(64, 64))),)})
    controlnet = model.controlnets.load(tmp_path / "controlnet" / "edges", "edges")
    with watched(controlnet.controlnet_mid_block) as asked:
        latents(model, at(guided, "fast"), tmp_path)
    assert len(asked) == len(ASKED)


# How far from exact


SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "Heun")
PROMPTS = ("a castle", "a cat on a blue background")

STATED = {"balanced": (40.0, 0.99), "fast": (26.0, 0.94)}
"""PSNR in dB and SSIM that no picture of these is below: docs/API.md says so."""


def pixels(model: Model, request: ImageRequest) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(decoded(model, request).image)).convert("RGB"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_are_as_near_to_exact_as_their_speed_says(starter: Model, sampler: str) -> None:
    for number, prompt in enumerate(PROMPTS):
        request = RED.model_copy(update={"prompt": prompt, "sampler": sampler, "steps": 20, "seed": number})
        exact = pixels(starter, request)
        for speed, (least_psnr, least_ssim) in STATED.items():
            near = pixels(starter, at(request, speed))
            assert psnr(exact, near) >= least_psnr
            assert ssim(exact, near) >= least_ssim


def test_likeness_is_what_it_is_said_to_be() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    assert (psnr(grey, grey), ssim(grey, grey)) == (float("inf"), 1.0)
    assert psnr(grey, grey + 1) == pytest.approx(20 * np.log10(255))
    # Two flat pictures differ in light alone: (2·100·110 + c) / (100² + 110² + c), c = (0.01 · 255)².
    c = 2.55**2
    assert ssim(grey, grey + 10) == pytest.approx((2 * 100 * 110 + c) / (100**2 + 110**2 + c))
