"""Textual inversion (arXiv 2208.01618): files of learned words, as vectors for SDXL's two text encoders.

``.safetensors`` with ``clip_l`` and ``clip_g`` (kohya, ComfyUI) or ``text_encoders_0`` and ``_1`` (diffusers); pickled
files of the same (``.pt``, ``.bin``) only through PyTorch's restricted unpickler, which runs no code.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from illustrious.errors import Unavailable
from illustrious.images.diffusion.recent import Recent
from illustrious.images.diffusion.weights import read

NAMES = (("clip_l", "text_encoders_0"), ("clip_g", "text_encoders_1"))
"""What the vectors for the first and for the second text encoder are called."""

PICKLED = {".pt", ".bin"}

CAPACITY = 64 * 2**20
"""Bytes of vectors kept in memory: some eight thousand words."""


@dataclass(frozen=True)
class Embedding:
    """``first`` vectors × width of the first text encoder, ``second`` as many × width of the second; float32."""

    first: Tensor
    second: Tensor


class Embeddings:
    """The learned words in ``paths``, name → file, for text encoders of these ``widths``."""

    def __init__(self, paths: Mapping[str, Path], widths: tuple[int, int], capacity: int = CAPACITY) -> None:
        self._paths = paths
        self._widths = widths
        self._kept: Recent[Embedding | str] = Recent(capacity, _bytes)

    def names(self) -> Iterable[str]:
        return self._paths.keys()

    def find(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The vectors for both text encoders, or ``None`` when there is no such word for this model."""
        found = self._find(name)
        return (found.first, found.second) if isinstance(found, Embedding) else None

    def problem(self, name: str) -> str | None:
        """Why there is no such word although there is a file of that name: a warning, for then it is read as text."""
        found = self._find(name)
        return found if isinstance(found, str) else None

    def _find(self, name: str) -> Embedding | str | None:
        path = self._paths.get(name)
        if path is None:
            return None
        try:
            return self._kept.get((path, path.stat().st_mtime_ns), lambda: self._load(name, path))
        except OSError as error:
            return _unread(name, str(error.strerror))

    def _load(self, name: str, path: Path) -> Embedding | str:
        try:
            return self._fitting(name, _tensors(path))
        except (Unavailable, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).partition("\n")[0]
            return _unread(name, reason)

    def _fitting(self, name: str, tensors: dict[str, Tensor]) -> Embedding | str:
        first, second = (next((tensors[key] for key in keys if key in tensors), None) for keys in NAMES)
        widths = [tensor.shape[-1] for tensor in (first, second) if tensor is not None]
        if first is None or second is None or tuple(widths) != self._widths:
            own = " and ".join(map(str, widths or sorted({tensor.shape[-1] for tensor in tensors.values()})))
            needed = " and ".join(map(str, self._widths))
            return (
                f"The embedding {name} was read as plain words: its vectors have {own or 'no'} values, and this "
                f"model's text encoders take {needed}. It was made for another family, such as Stable Diffusion 1; "
                "use one for SDXL."
            )
        if len(first) != len(second) or not (first.isfinite().all() and second.isfinite().all()):
            return _unread(name, "the vectors of its two halves do not belong together, or are no numbers")
        return Embedding(first, second)


def _unread(name: str, reason: str) -> str:
    return f"The embedding {name} was read as plain words, for its file cannot be used ({reason}). Download it again."


def _tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor in the file, vectors × width, in float32."""
    if path.suffix.lower() in PICKLED:
        content = torch.load(path, map_location="cpu", weights_only=True)
    else:
        content = read(path, "Download it again.")[0]
    return dict(_flattened(content))


def _flattened(content: object) -> Iterator[tuple[str, Tensor]]:
    """AUTOMATIC1111's files for Stable Diffusion 1 have their vectors under ``string_to_param``, ``*``."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (1, 2):
            # A copy: whatever happens to the mapped file, this stays.
            yield str(key), value.detach().to(torch.float32, copy=True).reshape(-1, value.shape[-1])
        elif isinstance(value, dict):
            yield from _flattened(value)


def _bytes(value: Embedding | str) -> int:
    return value.first.nbytes + value.second.nbytes if isinstance(value, Embedding) else 0
