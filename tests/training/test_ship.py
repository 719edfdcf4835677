import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training.lora import BASE
from training.ship import agree, main, ship

from illustrious.checksums import verify


@pytest.fixture
def results(tmp_path: Path) -> dict[str, list[Path]]:
    for name in ("starter", "loras"):
        (tmp_path / "cards" / name).mkdir(parents=True)
        (tmp_path / "cards" / name / "README.md").write_text("made of icons")
    (tmp_path / "data" / "captioner").mkdir(parents=True)
    (tmp_path / "data" / "captioner" / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "model.safetensors").write_bytes(b"x" * 400)
    (tmp_path / "style.safetensors").write_bytes(b"x" * 50)
    return {"starter": [tmp_path / "model"], "loras": [tmp_path / "style.safetensors"]}


def test_weights_go_into_the_package_with_their_cards_and_checksums(
    results: dict[str, list[Path]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "loras").mkdir()
    (data / "loras" / "old.safetensors").write_bytes(b"old")
    assert ship(results, tmp_path / "cards", data) == 550
    assert sorted(file.name for file in (data / "loras").iterdir()) == ["README.md", "SHA256SUMS", "style.safetensors"]
    assert (data / "starter" / "README.md").read_text() == "made of icons"
    verify(data / "starter", "The starter")
    verify(data / "loras", "The LoRAs")


def test_too_much_is_refused_before_anything_changes(results: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="550 bytes of weights are more than 549"):
        ship(results, tmp_path / "cards", tmp_path / "data", limit=549)
    assert not (tmp_path / "data" / "starter").exists()


def test_what_is_not_trained_yet_is_named(results: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors is not there; train it first"):
        ship({**results, "loras": [tmp_path / "missing.safetensors"]}, tmp_path / "cards", tmp_path / "data")


def test_a_lora_is_shipped_with_the_model_it_was_learned_on_alone(
    results: dict[str, list[Path]], tmp_path: Path
) -> None:
    unet = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(b"the model")
    (lora,) = results["loras"]
    save_file({"x": torch.zeros(1)}, lora, metadata={BASE: hashlib.sha256(b"the model").hexdigest()})
    cards, data = tmp_path / "cards", tmp_path / "data"
    ship(results, cards, data, check=lambda: agree([lora], tmp_path / "model"))
    before = (data / "starter" / "unet" / unet.name).read_bytes()
    unet.write_bytes(b"trained on")
    with pytest.raises(ValueError, match="learned on another model"):
        ship({"starter": results["starter"]}, cards, data, check=lambda: agree([lora], tmp_path / "model"))
    assert (data / "starter" / "unet" / unet.name).read_bytes() == before


def test_without_loras_nothing_is_shipped_in_their_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"style.starter-\*\.safetensors is not there"):
        main(["--runs", str(tmp_path), "--only", "loras"])
