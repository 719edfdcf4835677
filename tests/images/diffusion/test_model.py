"""Loading as a whole: parts of different models are refused before anything is drawn."""

import shutil
from pathlib import Path

import pytest
import torch

from illustrious.images import Ready, Unloadable
from illustrious.images.diffusion import model as model_module
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.parts import Part
from illustrious.images.diffusion.placement import Placement
from illustrious.types import ImageRequest
from tests.images.diffusion.conftest import Run
from tests.images.diffusion.drawing import latents, loaded


def replace_part(path: Path, other: Path, part: str) -> None:
    shutil.rmtree(path / part)
    shutil.copytree(other / part, path / part)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("text_encoder", "tokenizer"), "text encoders"),
        (("text_encoder_2", "tokenizer_2"), "text encoders"),
        (("tokenizer",), "tokenizers"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    run: Run, folder: Path, tmp_path: Path, parts: tuple[str, ...], said: str
) -> None:
    mixed = Path(shutil.copytree(starter_folder(), tmp_path / "mixed"))
    for part in parts:
        replace_part(mixed, folder, part)
    refused = run(mixed)[-1]
    assert isinstance(refused, Unloadable)
    assert said in refused.reason
    assert "do not fit" in refused.reason
    assert "--model" in refused.reason


def test_a_model_that_is_not_the_starter_has_its_own_name_and_no_note(run: Run, folder: Path) -> None:
    ready = run(folder)[-1]
    assert isinstance(ready, Ready)
    assert (ready.model, ready.note) == ("tiny", None)


def test_a_starter_whose_files_have_changed_is_not_drawn_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(shutil.copytree(starter_folder(), tmp_path / "starter"))
    with (damaged / "unet" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    monkeypatch.setattr("illustrious.images.diffusion.model.starter_folder", lambda: damaged)
    refused = run(None)[-1]
    assert isinstance(refused, Unloadable)
    assert "The starter model is damaged (unet/" in refused.reason
    assert "Install the studio again" in refused.reason


def test_what_finds_no_room_on_the_device_stays_in_main_memory_and_draws_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UNet is given its place first, so it is the text encoders that are missing here."""
    request = ImageRequest(prompt="a cat", steps=2, seed=1)
    whole = loaded(folder)
    honest, placed = model_module.assemble, []

    def full(part: Part, placement: Placement) -> object:
        placed.append(part.kind)
        if part.kind.startswith("CLIP") and placed.count(part.kind) == 1:
            torch.empty(2**60)
        return honest(part, placement)

    monkeypatch.setattr(model_module, "assemble", full)
    monkeypatch.setattr(Placement, "can_offload", True)
    model = loaded(folder)
    assert placed[:2] == ["UNet2DConditionModel", "AutoencoderKL"]
    assert model.away == tuple(encoder.model for encoder in model.text_encoders)
    assert "main memory" in str(model.note)
    assert not model.is_whole
    assert torch.equal(latents(model, request), latents(whole, request))
    assert [model.make_room() for _ in range(3)] == [True, True, False]
    assert torch.equal(latents(model, request), latents(whole, request))
