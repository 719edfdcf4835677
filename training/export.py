"""A trained model as others load it: diffusers layout, float16 safetensors, every form of the tokenizer, checksums."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import torch

from training.model import StarterModel


def export(trained: StarterModel, folder: Path) -> None:
    """Write ``folder`` anew. The model itself keeps its precision."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(trained.pipeline()).to(dtype=torch.float16).save_pretrained(partial, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        _older_forms(partial / name)
    write_checksums(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _older_forms(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` beside ``tokenizer.json``, which older programs do not read."""
    learned = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(learned["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in learned["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def write_checksums(folder: Path) -> None:
    """``SHA256SUMS`` of every file, as ``sha256sum --check`` reads it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n" for file in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
