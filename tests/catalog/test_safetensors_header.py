"""Headers are read without tensors, and a damaged file is a sentence."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from illustrious.catalog.safetensors_header import TensorInfo, read_header
from illustrious.errors import Unavailable
from tests.catalog.headers import SDXL, write_header


def test_a_header_is_what_the_library_of_the_format_wrote(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(0, dtype=torch.bfloat16)}, file, {"format": "pt"})
    header = read_header(file)
    assert header.tensors == {"a": TensorInfo("F32", (2, 3)), "b": TensorInfo("BF16", (0,))}
    assert header.metadata == {"format": "pt"}
    assert file.stat().st_size == header.offset + 2 * 3 * 4


def test_a_header_answers_for_names_and_shapes(tmp_path: Path) -> None:
    header = read_header(write_header(tmp_path / "a.safetensors", SDXL))
    assert "first_stage_model.decoder.conv_in.weight" in header
    assert header.has("first_stage_model.", "vae.")
    assert not header.has("lora_")
    assert header.shape("model.diffusion_model.input_blocks.0.0.weight") == (320, 4, 3, 3)
    assert header.shape("nothing") is None
    assert set(header) == set(SDXL)


def test_a_download_that_was_cut_short_says_how_much_is_missing(tmp_path: Path) -> None:
    file = write_header(tmp_path / "a.safetensors", {"a": (1000,)})
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1500)
    with pytest.raises(Unavailable, match=r"1,500 bytes of its tensors are missing.*Download it again"):
        read_header(file)


def damaged(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        b"<html>404 Not Found, and some more words than eight</html>",
        b"\xff" * 20,
        (5).to_bytes(8, "little") + b"{nope",
        (2).to_bytes(8, "little") + b"\xff\xff",
        damaged([1, 2]),
        damaged({"__metadata__": "words"}),
        damaged({"a": {"dtype": "F16"}}),
        damaged({"a": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 0]}}),
        damaged({"a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 0]}}),
        damaged({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}),
        (40_000).to_bytes(8, "little") + b"[" * 40_000,
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(Unavailable, match=r"damaged or incomplete \(.+\)\. Download it again"):
        read_header(file)


def test_a_file_that_is_not_there_is_a_sentence_too(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Check the file"):
        read_header(tmp_path / "a.safetensors")


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)
    try:
        read_header(file)
    except Unavailable as error:
        assert "Download it again" in str(error)
