"""Reading the head of a GGUF file: what it is, and how much it can read."""

import struct
from pathlib import Path

import pytest

from illustrious.chat.gguf import read_facts
from tests.chat.gguf_files import header


def facts(tmp_path: Path, data: bytes) -> tuple[int | None, bool]:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    found = read_facts(path)
    return found.context_length, found.chats


def test_a_language_model_chats_and_says_its_context(tmp_path: Path) -> None:
    head = header({"general.architecture": "llama", "general.tags": ["a", "b"], "llama.context_length": 8192})
    assert facts(tmp_path, head) == (8192, True)


def test_nothing_after_the_tokenizer_is_read(tmp_path: Path) -> None:
    head = header({"general.architecture": "llama", "llama.context_length": 2048, "tokenizer.ggml.model": "gpt2"})
    assert facts(tmp_path, head[:-12]) == (2048, True)


@pytest.mark.parametrize(
    "keys",
    [
        {"general.architecture": "clip", "general.type": "mmproj"},
        {"general.architecture": "clip"},
        {"general.architecture": "llama", "general.type": "adapter"},
        {"general.architecture": "nomic-bert", "nomic-bert.pooling_type": 1},
        {"general.architecture": "llama", "split.no": 1},
    ],
    ids=["projector", "old projector", "adapter", "embedding model", "second part"],
)
def test_what_does_not_chat_is_told_apart(tmp_path: Path, keys: dict[str, object]) -> None:
    assert facts(tmp_path, header(keys))[1] is False


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not a model</html>",
        b"GGUF" + struct.pack("<I", 1),
        header({"general.architecture": "llama"})[:-3],
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),
    ],
    ids=["empty", "web page", "version 1", "cut off", "endless string", "unknown type", "nested arrays"],
)
def test_what_is_not_a_whole_header_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError):
        facts(tmp_path, data)
