"""The UNet in bfloat16: near the float32 one, for those pictures that may be, and only where there is room for it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from benchmarks.likeness import psnr, ssim

from illustrious.images.diffusion.adapters import WeightedLora
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.outfit import SEAMLESS
from illustrious.images.diffusion.rounded import RoundedUNet
from illustrious.images.diffusion.shortcuts import forward
from illustrious.types import ImageRequest, Lora
from tests import tiny_lora
from tests.images.diffusion.drawing import decoded, loaded
from tests.images.diffusion.test_shortcuts import STATED, at, given, pixels

RED = ImageRequest(prompt="a red apple", steps=12, guidance=5, seed=1)


@pytest.fixture
def model(single_file: Path) -> Model:
    return loaded(single_file)


@torch.inference_mode()
def test_a_rounded_unet_answers_nearly_as_the_whole_one(model: Model) -> None:
    rounded, arguments = RoundedUNet(model.unet, model.adapters), given(model.unet, 16, 16)
    answer = forward(model.unet, **arguments)[0]
    near, near_deep = rounded(**arguments)
    assert (near.dtype, near_deep.dtype) == (torch.float32, torch.bfloat16)
    assert float((near - answer).abs().max() / answer.abs().max()) < 0.05
    assert not torch.equal(near, answer)
    assert torch.equal(rounded(**arguments, deep=near_deep)[0], near)
    assert rounded.news() == []


@torch.inference_mode()
def test_it_wears_what_the_unet_wears_and_takes_it_off_again(model: Model, tmp_path: Path) -> None:
    """Whether LoRAs act on the UNet before the copy is made, or after."""
    for name, seed in (("first", 1), ("second", 2)):
        tiny_lora.write_kohya(tmp_path / f"{name}.safetensors", tiny_lora.targets(parts=["unet"]), seed=seed)
    loras = [WeightedLora(model.adapters.load(tmp_path / f"{name}.safetensors"), 0.5) for name in ("first", "second")]
    rounded, arguments = RoundedUNet(model.unet, model.adapters), given(model.unet, 16, 16)
    answers = []
    for worn in ((loras[0],), tuple(loras), (loras[1],), ()):
        model.adapters.use(worn)
        answer = forward(model.unet, **arguments)[0]
        near = rounded(**arguments)[0]
        assert float((near - answer).abs().max() / answer.abs().max()) < 0.05
        answers.append(answer)
    bare = answers[-1]
    assert all(float((answer - bare).abs().max() / bare.abs().max()) > 0.1 for answer in answers[:-1])


@torch.inference_mode()
def test_without_room_for_a_copy_the_model_itself_answers_and_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    rounded, arguments = RoundedUNet(model.unet, model.adapters), given(model.unet, 16, 16)
    whole = forward(model.unet, **arguments)[0]
    assert torch.equal(rounded(**arguments)[0], whole)
    free.available = 10**12
    assert torch.equal(rounded(**arguments)[0], whole)  # a picture is not rounded from its middle on
    assert "no room" in rounded.news()[0]
    assert not torch.equal(rounded(**arguments)[0], whole)
    assert rounded.news() == [] and rounded.problem is None


def test_what_is_exact_is_not_rounded_and_all_else_is_with_loras_or_without(model: Model, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    calls: list[int] = []

    class Counted(RoundedUNet):
        def __call__(self, *worn: Any, **given: Any) -> Any:
            calls.append(len(given["sample"]))
            return super().__call__(*worn, **given)

    model.rounded = Counted(model.unet, model.adapters)
    decoded(model, RED, tmp_path)
    assert calls == []
    for worn in ({}, {"loras": (Lora(name="style"),)}):
        for speed in ("balanced", "fast"):
            assert decoded(model, at(RED, speed).model_copy(update=worn), tmp_path).warnings == ()
    assert calls == [2] * RED.steps * 4


def test_seamless_pictures_are_neither_rounded_nor_shortened_and_say_so(model: Model, tmp_path: Path) -> None:
    model.rounded = RoundedUNet(model.unet, model.adapters)
    request = RED.model_copy(update={"tiling": "both", "steps": 12})
    exact = decoded(model, request, tmp_path)
    for speed in ("balanced", "fast"):
        near = decoded(model, at(request, speed), tmp_path)
        assert near.warnings == (SEAMLESS,)
        assert near.image == exact.image


@pytest.mark.parametrize(
    "worn",
    [
        {"loras": (Lora(name="starter-ink"),)},
        {"loras": (Lora(name="starter-4-steps"),), "steps": 4, "guidance": 1.0, "sampler": "Euler"},
    ],
)
def test_pictures_of_the_starter_that_wear_something_are_as_near_to_exact_as_others(worn: dict[str, Any]) -> None:
    starter = loaded(starter_folder())
    starter.rounded = RoundedUNet(starter.unet, starter.adapters)
    request = RED.model_copy(update={"prompt": "a castle", "steps": 20, **worn})
    exact = pixels(starter, request)
    for speed, (least_psnr, least_ssim) in STATED.items():
        near = pixels(starter, at(request, speed))
        assert least_psnr <= psnr(exact, near) < float("inf")
        assert ssim(exact, near) >= least_ssim


def test_who_computes_in_half_precision_already_rounds_nothing(model: Model) -> None:
    assert not replace(model.placement, dtype=torch.bfloat16).rounds
    assert not replace(model.placement, device=torch.device("cuda")).rounds
