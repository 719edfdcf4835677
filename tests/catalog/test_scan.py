"""Folders of the studio, of AUTOMATIC1111's web UI and of ComfyUI, and what people do to them."""

import os
from pathlib import Path
from typing import Any

import pytest

from illustrious.catalog.kinds import KINDS
from illustrious.catalog.scan import SETTLED, Scan
from tests.catalog.headers import LORA, SDXL, write_header


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(root: Path) -> dict[str, list[str]]:
    return {kind: list(Scan(kind, [root]).found) for kind in KINDS if Scan(kind, [root]).found}


def test_the_web_ui(tmp_path: Path) -> None:
    touch(tmp_path / "models", "Stable-diffusion/anime/a.safetensors", "Lora/b.safetensors", "VAE/c.safetensors")
    touch(tmp_path / "models", "ControlNet/d.safetensors", "ESRGAN/e.pth", "RealESRGAN/f.pth", "Lora/notes.txt")
    touch(tmp_path, "embeddings/g.pt", "wildcards/people/h.txt", "venv/lib/weights.safetensors")
    whole = {
        "checkpoint": ["anime/a.safetensors"],
        "lora": ["b.safetensors"],
        "embedding": ["g.pt"],
        "vae": ["c.safetensors"],
        "controlnet": ["d.safetensors"],
        "upscaler": ["e.pth", "f.pth"],
        "wildcard": ["people/h.txt"],
    }
    assert found(tmp_path) == whole
    assert found(tmp_path / "models") == {k: v for k, v in whole.items() if k not in ("embedding", "wildcard")}
    assert found(tmp_path / "models" / "Lora") == {"lora": ["b.safetensors"]}


def test_comfyui(tmp_path: Path) -> None:
    touch(tmp_path / "models", "checkpoints/a.safetensors", "loras/b.safetensors", "embeddings/c.safetensors")
    touch(tmp_path / "models", "vae/d.safetensors", "controlnet/e.safetensors", "upscale_models/f.pth", "clip/g.pt")
    assert sum(map(len, found(tmp_path).values())) == 6


def test_a_heap_is_sorted_by_what_the_files_say(tmp_path: Path) -> None:
    write_header(tmp_path / "style.safetensors", LORA)
    write_header(tmp_path / "new" / "mix.safetensors", SDXL)
    touch(tmp_path, "readme.txt")
    assert found(tmp_path) == {"checkpoint": ["new/mix.safetensors"], "lora": ["style.safetensors"]}


def test_folders_in_diffusers_layout_are_one_model_each(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoints/xl/model_index.json", "checkpoints/xl/unet/weights.safetensors")
    touch(tmp_path, "checkpoints/xl/vae/config.json", "vae/taesd/config.json", "vae/taesd/weights.safetensors")
    assert found(tmp_path) == {"checkpoint": ["xl"], "vae": ["taesd"]}


def test_a_vae_may_lie_beside_its_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoints/a.safetensors", "checkpoints/a.vae.safetensors")
    assert found(tmp_path) == {"checkpoint": ["a.safetensors"], "vae": ["a.vae.safetensors"]}


def test_of_two_of_the_same_path_the_earlier_roots_counts(tmp_path: Path) -> None:
    ours, theirs = touch(tmp_path / "ours", "loras/a.safetensors"), touch(tmp_path / "theirs", "Lora/a.safetensors")
    assert Scan("lora", [ours, theirs]).found == {"a.safetensors": ours / "loras" / "a.safetensors"}


def test_what_is_hidden_or_half_written_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "loras/.a.safetensors.part", "loras/.cache/b.safetensors", "loras/._c.safetensors")
    assert found(tmp_path) == {}


def test_links_are_followed_but_into_no_folder_twice(tmp_path: Path) -> None:
    touch(tmp_path, "loras/a/x.safetensors", "elsewhere/y.safetensors")
    (tmp_path / "loras" / "a" / "up").symlink_to(tmp_path / "loras", target_is_directory=True)
    (tmp_path / "loras" / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "loras" / "self").symlink_to(tmp_path / "loras" / "self")
    (tmp_path / "loras" / "gone.safetensors").symlink_to(tmp_path / "nothing")
    assert found(tmp_path) == {"lora": ["a/x.safetensors", "far/y.safetensors"]}


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "loras/a.safetensors", "loras/locked/b.safetensors")
    read = os.scandir

    def scandir(folder: Path) -> Any:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    scan = Scan("lora", [tmp_path])
    assert list(scan.found) == ["a.safetensors"]
    assert ["Mend its permissions" in problem for problem in scan.problems] == [True]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_utf_8_can_be_written_down(tmp_path: Path) -> None:
    touch(tmp_path, "loras/" + os.fsdecode(b"caf\xe9.safetensors"))
    ((name, path),) = Scan("lora", [tmp_path]).found.items()
    assert name == "caf?.safetensors"
    assert path.exists()


def settle(folder: Path) -> None:
    """As if nobody had touched it for long."""
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 2 * SETTLED))


def test_it_is_fresh_until_a_folder_changes(tmp_path: Path) -> None:
    touch(tmp_path, "loras/deep/a.safetensors")
    assert not Scan("lora", [tmp_path]).fresh  # a change in the same tick of the clock would leave no trace
    settle(tmp_path)
    scan = Scan("lora", [tmp_path])
    assert scan.fresh
    touch(tmp_path, "loras/deep/b.safetensors")
    assert not scan.fresh


def test_a_root_that_is_not_there_yet_is_noticed_when_it_comes(tmp_path: Path) -> None:
    scan = Scan("lora", [tmp_path / "later"])
    assert scan.fresh
    touch(tmp_path, "later/loras/a.safetensors")
    assert not scan.fresh
