"""Which checkpoint is drawn with."""

from pathlib import Path

import pytest

from illustrious.catalog.checkpoints import checkpoints, choose


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub" / "diffusers" / "unet").mkdir(parents=True)
    (tmp_path / "sub" / "diffusers" / "model_index.json").write_text("{}")
    (tmp_path / "sub" / "diffusers" / "unet" / "weights.safetensors").touch()
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_files_and_folders_are_found_and_parts_of_folders_are_not(folder: Path) -> None:
    assert list(checkpoints(folder)) == ["b", "sub/diffusers"]


def test_the_configured_one_wins_as_path_or_name(folder: Path, tmp_path: Path) -> None:
    assert choose(str(folder / "b.safetensors"), folder) == folder / "b.safetensors"
    assert choose("sub/diffusers", folder) == folder / "sub" / "diffusers"
    assert choose("b.safetensors", folder) == folder / "b.safetensors"


def test_else_the_first_one_found_else_none(folder: Path, tmp_path: Path) -> None:
    assert choose(None, folder) == folder / "b.safetensors"
    assert choose(None, tmp_path / "empty") is None


def test_a_configured_one_that_is_missing_is_not_replaced_by_another(folder: Path) -> None:
    assert choose("missing", folder) == Path("missing")
