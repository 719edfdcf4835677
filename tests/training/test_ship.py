from pathlib import Path

import pytest
from training.ship import ship

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
