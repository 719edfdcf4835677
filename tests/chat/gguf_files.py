"""GGUF headers without a model behind them: enough to be chosen, too little to load."""

import struct
from collections.abc import Mapping


def header(keys: Mapping[str, object]) -> bytes:
    """A version 3 header with these keys and no tensors."""
    pairs = b"".join(_string(key) + _typed(value) for key, value in keys.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + pairs


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: object) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _string(value)
        case int():
            return struct.pack("<II", 4, value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(item) for item in value)
    raise TypeError(type(value))


CHAT_MODEL = header({"general.architecture": "llama", "llama.context_length": 2048})
