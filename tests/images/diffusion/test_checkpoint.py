"""What ``--model`` may name, and what it may not."""

import pickle
from pathlib import Path

import pytest

from illustrious.errors import Unavailable
from illustrious.images.diffusion.checkpoint import open_checkpoint, starter_folder


def test_both_layouts_are_opened(single_file: Path, folder: Path) -> None:
    assert open_checkpoint(single_file).name == open_checkpoint(folder).name == "tiny"
    assert open_checkpoint(single_file).size == open_checkpoint(folder).size == (64, 64)
    assert open_checkpoint(starter_folder()).size == (128, 128)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pth", "model.bin", "MODEL.CKPT"])
def test_a_pickle_is_refused_unopened(tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (tmp_path / "exploded").touch, ()

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Unavailable, match="pickled") as refusal:
        open_checkpoint(tmp_path / name)
    assert "safetensors" in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


def test_what_is_not_there_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no model at .*gone\.safetensors"):
        open_checkpoint(tmp_path / "gone.safetensors")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(Unavailable, match=r"not a \.safetensors file"):
        open_checkpoint(tmp_path / "model.gguf")
    with pytest.raises(Unavailable, match="model_index"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1000])
def test_a_truncated_file_is_refused_wherever_it_ends(single_file: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "half.safetensors").write_bytes(single_file.read_bytes()[:kept])
    with pytest.raises(Unavailable, match="damaged or incomplete"):
        open_checkpoint(tmp_path / "half.safetensors")


def test_a_home_folder_may_be_written_as_a_tilde(single_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(single_file.parent))
    assert open_checkpoint(Path("~/tiny.safetensors")).name == "tiny"
