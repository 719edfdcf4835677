"""Models kept warm: on the device while there is room, then in main memory, then only on disk.

The least recently used goes first; one that pictures are being drawn with stays where it is.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from illustrious.catalog.safetensors_header import read_header
from illustrious.images.diffusion.model import Model, put_together
from illustrious.images.diffusion.placement import Memory, Placement, free_memory
from illustrious.images.diffusion.returned import returned

SPARE = 1.25
"""How much more than a model's weights must be free before it is loaded: drawing takes some, too."""


@dataclass(eq=False)
class _Kept:
    model: Model
    stamp: tuple[int, int] | None
    is_on_device: bool = True


class Shelf:
    """Models by their paths; ``None`` is the starter's. ``memory`` is the device's."""

    def __init__(self, placement: Placement, memory: Memory) -> None:
        self._placement = placement
        self._memory = memory
        self._kept: dict[Path | None, _Kept] = {}  # the least recently used first

    def put(self, path: Path | None, model: Model) -> None:
        """A model that is loaded already."""
        self._kept[path] = _Kept(model, _stamp(path))

    @property
    def warm(self) -> dict[Path | None, bool]:
        """What is in memory, the least recently used first, and whether it is on the device."""
        return {path: kept.is_on_device for path, kept in self._kept.items()}

    @property
    def models(self) -> dict[Path | None, Model]:
        """The same, and what it is."""
        return {path: kept.model for path, kept in self._kept.items()}

    def take(self, path: Path | None, busy: Collection[Model]) -> Model | None:
        """The model at ``path``, on the device; ``None`` when there is no room before one of the ``busy`` ones is done.

        Raises ``Unavailable`` for what cannot be loaded.
        """
        kept = self._kept.get(path)
        if kept is not None and _stamp(path) not in (kept.stamp, None):
            del self._kept[path]  # the file was replaced since; one that is gone is still in memory
            kept = None
        if kept is None or not kept.is_on_device:
            needed = _size(path, self._placement.dtype) if kept is None else kept.model.bytes
            if not self._has_room(needed, busy, path) and busy:
                return None
        if kept is None:
            kept = _Kept(returned(put_together(path, self._placement)), _stamp(path))
        elif not kept.is_on_device:
            kept.model.to_device()
            kept.is_on_device = True
        self._kept.pop(path, None)
        self._kept[path] = kept
        return kept.model

    def _has_room(self, needed: int, busy: Collection[Model], wanted: Path | None) -> bool:
        """Put away what is idle until there is; returns whether there is."""
        while self._memory.free < needed * SPARE:
            idle = [
                path
                for path, kept in self._kept.items()
                if kept.is_on_device and path != wanted and kept.model not in busy
            ]
            if not idle:
                return False
            self._put_away(idle[0])
        return True

    def _put_away(self, path: Path | None) -> None:
        kept = self._kept[path]
        in_main_memory = [other for other, its in self._kept.items() if not its.is_on_device]
        while in_main_memory and psutil.virtual_memory().available < kept.model.bytes * SPARE:
            del self._kept[in_main_memory.pop(0)]
        has_room = psutil.virtual_memory().available >= kept.model.bytes * SPARE
        if self._placement.can_offload and kept.model.is_whole and has_room:
            kept.model.to_main_memory()
            kept.is_on_device = False
        else:
            del self._kept[path]
        del kept
        free_memory(self._placement)


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Changes when the file does; ``None`` when there is none."""
    if path is None:
        return None
    file = path / "model_index.json" if path.is_dir() else path
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _size(path: Path | None, dtype: torch.dtype) -> int:
    """How many bytes its weights take in ``dtype``, by the headers of its files. Raises ``Unavailable``."""
    if path is None:
        return 0
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    tensors = (tensor for file in files for tensor in read_header(file).tensors.values())
    return sum(math.prod(tensor.shape) for tensor in tensors) * dtype.itemsize
