"""A training run's state on disk: safetensors, written whole or not at all, the newest two kept.

>>> save(folder, State(step=500, tensors={"weights.x": x}))
>>> newest(folder).step
500
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

KEPT = 2


@dataclass(frozen=True)
class State:
    """``tensors``: everything the next step depends on but the configuration."""

    step: int
    tensors: Mapping[str, Tensor]


def save(folder: Path, state: State) -> Path:
    """Written beside, forced to disk and renamed: a power cut leaves the state before."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{state.step:08d}.safetensors"
    partial = file.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}, partial)
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    partial.replace(file)
    for old in _files(folder)[:-KEPT]:
        old.unlink()
    return file


def newest(folder: Path) -> State | None:
    files = _files(folder)
    if not files:
        return None
    with safe_open(files[-1], "pt") as opened:
        names = list(opened.keys())
        return State(int(files[-1].stem.removeprefix("step-")), {name: opened.get_tensor(name) for name in names})


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", file.stem))
