"""What a safetensors file says about its tensors, without reading one: names, shapes, number formats, metadata.

Eight bytes say how long the header is (little-endian), then comes the header, JSON, then the tensors
(https://github.com/huggingface/safetensors#format). A header of a full-size checkpoint is read in a few milliseconds.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from illustrious.errors import Unavailable

LONGEST = 100_000_000
"""Bytes of header beyond which the format's own library refuses a file."""


class TensorInfo(NamedTuple):
    """``dtype`` in the format's words: ``F16``, ``BF16``, ``F32``, …"""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """``offset`` is where the tensors begin, in bytes."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    offset: int

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self.tensors.get(name)
        return found.shape if found else None

    def has(self, *prefixes: str) -> bool:
        """Whether any tensor's name begins with one of these."""
        return any(name.startswith(prefixes) for name in self.tensors)


def read_header(path: Path) -> Header:
    """Raises ``Unavailable`` for a file that is damaged, cut short, or no safetensors file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LONGEST, size - 8):
                raise _damaged(path, "its header is not whole")
            text = file.read(length)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read ({error.strerror or error}). Check the file and its permissions."
        ) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "its header is no JSON object")
    metadata = content.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise _damaged(path, "its metadata is no JSON object")
    tensors, end = _tensors(path, content)
    if end > size - 8 - length:
        raise _damaged(path, f"{end + 8 + length - size:,} bytes of its tensors are missing")
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()}, 8 + length)


class _Entry(TypedDict):
    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)]


_entries = TypeAdapter(dict[str, _Entry], config=ConfigDict(strict=True))


def _tensors(path: Path, content: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """All of them, and where the last one ends, in bytes after the header."""
    try:
        entries = _entries.validate_python(content)
    except ValidationError as error:
        name = error.errors(include_url=False, include_input=False)[0]["loc"][0]
        raise _damaged(path, f"its header does not describe the tensor {name!r}") from error
    end = 0
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        if stop < start:
            raise _damaged(path, f"its header does not describe the tensor {name!r}")
        end = max(end, stop)
    return {name: TensorInfo(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}, end


def _damaged(path: Path, how: str) -> Unavailable:
    return Unavailable(f"{path} is damaged or incomplete ({how}). Download it again, or choose another model.")
