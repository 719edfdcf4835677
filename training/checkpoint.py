"""A training run's state on disk: safetensors, written whole or not at all, the newest two kept.

>>> save(folder, State(step=500, tensors={"weights.x": x}))
>>> newest(folder).step
500
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger("training")

KEPT = 2


@dataclass(frozen=True)
class State:
    """``tensors``: everything the next step depends on but the configuration, which ``recipe`` says, as JSON; none in
    checkpoints of before it was kept."""

    step: int
    tensors: Mapping[str, Tensor]
    recipe: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, state: State) -> Path:
    """Written beside, forced to disk and renamed: a power cut leaves the state before."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{state.step:08d}.safetensors"
    partial = file.with_suffix(".partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    save_file(tensors, partial, metadata={"recipe": json.dumps(state.recipe)})
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    partial.replace(file)
    for old in _files(folder)[:-KEPT]:
        old.unlink()
    return file


def newest(folder: Path) -> State | None:
    """Of those that can be read; that one cannot is logged. Raises ``SafetensorError`` where none of them can."""
    *older, last = [None, *_files(folder)]
    if last is None:
        return None
    try:
        return _read(last)
    except SafetensorError as error:
        before = older[-1]
        if before is None:
            raise
        log.warning("%s cannot be read (%s): going back to %s", last, error, before.name)
        return _read(before)


def _read(file: Path) -> State:
    with safe_open(file, "pt") as opened:
        recipe = json.loads((opened.metadata() or {}).get("recipe", "{}"))
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    return State(int(file.stem.removeprefix("step-")), tensors, recipe)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", file.stem))
