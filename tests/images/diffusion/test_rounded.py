"""The UNet in bfloat16: near the float32 one, for those pictures that may be, and only where there is room for it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from illustrious.images.diffusion.adapters import WeightedLora
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.rounded import RoundedUNet
from illustrious.images.diffusion.shortcuts import forward
from illustrious.types import ImageRequest, Lora
from tests import tiny_lora
from tests.images.diffusion.drawing import decoded, loaded
from tests.images.diffusion.test_shortcuts import at, given

RED = ImageRequest(prompt="a red apple", steps=12, guidance=5, seed=1)


@pytest.fixture
def model(single_file: Path) -> Model:
    return loaded(single_file)


@torch.inference_mode()
def test_a_rounded_unet_answers_nearly_as_the_whole_one_and_wears_nothing(model: Model, tmp_path: Path) -> None:
    rounded, arguments = RoundedUNet(model.unet), given(model.unet, 16, 16)
    answer = forward(model.unet, **arguments)[0]
    near, near_deep = rounded(**arguments)
    assert (near.dtype, near_deep.dtype) == (torch.float32, torch.bfloat16)
    assert float((near - answer).abs().max() / answer.abs().max()) < 0.05
    assert not torch.equal(near, answer)
    assert torch.equal(rounded(**arguments, deep=near_deep)[0], near)
    tiny_lora.write_kohya(tmp_path / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    model.adapters.use((WeightedLora(model.adapters.load(tmp_path / "style.safetensors")),))
    assert torch.equal(rounded(**arguments)[0], near)
    assert rounded.news() == []


@torch.inference_mode()
def test_without_room_for_a_copy_the_model_itself_answers_and_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    rounded, arguments = RoundedUNet(model.unet), given(model.unet, 16, 16)
    assert torch.equal(rounded(**arguments)[0], forward(model.unet, **arguments)[0])
    assert "no room" in rounded.news()[0]


def test_what_is_exact_or_worn_is_not_rounded(model: Model, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    calls: list[int] = []

    class Counted(RoundedUNet):
        def __call__(self, **given: Any) -> Any:
            calls.append(len(given["sample"]))
            return super().__call__(**given)

    model.rounded = Counted(model.unet)
    for request in (
        RED,
        at(RED, "fast").model_copy(update={"loras": (Lora(name="style"),)}),
        at(RED, "fast").model_copy(update={"tiling": "x"}),
    ):
        decoded(model, request, tmp_path)
    assert calls == []
    for speed in ("balanced", "fast"):
        assert decoded(model, at(RED, speed)).warnings == ()
    assert calls == [2] * RED.steps * 2


def test_who_computes_in_half_precision_already_rounds_nothing(model: Model) -> None:
    assert not replace(model.placement, dtype=torch.bfloat16).rounds
    assert not replace(model.placement, device=torch.device("cuda")).rounds
