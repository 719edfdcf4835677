"""What a GGUF file says of itself: the first keys of its header, without loading the model.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. All numbers are little-endian; strings are UTF-8
with a 64-bit length before them; an array is an element type, a 64-bit count and the elements.
"""

import struct
from pathlib import Path
from typing import IO, Any

from illustrious.types import Noun

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 1 << 20
_MOST_ELEMENTS = 1 << 16


class GgufFacts(Noun):
    """``context_length`` in tokens, as trained. ``chats`` is false for what is no language model that writes text
    (projectors, adapters, embedding models) and for the later parts of a split model."""

    context_length: int | None
    chats: bool


def read_facts(path: Path) -> GgufFacts:
    """Raises ``ValueError`` for a file that is not GGUF, ``OSError`` for one that cannot be read."""
    keys: dict[str, Any] = {}
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file")
        version = _number(file, "I")
        if version not in (2, 3):
            raise ValueError(f"{path} is GGUF version {version}; only 2 and 3 are known")
        _number(file, "Q")  # the number of tensors
        for _ in range(_number(file, "Q")):
            key = _string(file)
            if key.startswith("tokenizer."):  # hundreds of thousands of strings, and nothing asked for after them
                break
            keys[key] = _value(file, _number(file, "I"))
    architecture = keys.get("general.architecture", "")
    length = keys.get(f"{architecture}.context_length")
    return GgufFacts(
        context_length=length if isinstance(length, int) and length > 0 else None,
        chats=keys.get("general.type", "model") == "model"
        and architecture != "clip"
        and f"{architecture}.pooling_type" not in keys
        and keys.get("split.no", 0) == 0,
    )


def _take(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the GGUF header is cut off")
    return data


def _number(file: IO[bytes], code: str) -> Any:
    return struct.unpack(f"<{code}", _take(file, struct.calcsize(f"<{code}")))[0]


def _string(file: IO[bytes]) -> str:
    length = _number(file, "Q")
    if length > _LONGEST_STRING:
        raise ValueError("the GGUF header is damaged")
    return _take(file, length).decode("utf-8", "replace")


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        element, count = _number(file, "I"), _number(file, "Q")
        if count > _MOST_ELEMENTS or element == _ARRAY:
            raise ValueError("the GGUF header is damaged")
        return [_value(file, element) for _ in range(count)]
    if kind not in _SCALARS:
        raise ValueError("the GGUF header is damaged")
    return _number(file, _SCALARS[kind])
