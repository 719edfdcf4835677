"""Textual inversion files: the layouts in use, and those that cannot be used with this model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from illustrious.images.diffusion.embeddings import Embeddings

WIDTHS = (48, 80)


def words(count: int = 3, names: tuple[str, str] = ("clip_l", "clip_g")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(count, width, generator=generator) for name, width in zip(names, WIDTHS, strict=True)}


def lookup(file: Path) -> Embeddings:
    return Embeddings({file.stem: file}, WIDTHS)


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_every_layout_gives_vectors_for_both_text_encoders(tmp_path: Path, suffix: str, names: tuple[str, str]) -> None:
    file = tmp_path / f"charm{suffix}"
    tensors = {name: vectors.to(torch.float16) for name, vectors in words(names=names).items()}
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    found = lookup(file).find("charm")
    assert found is not None
    for vectors, name in zip(found, names, strict=True):
        assert vectors.dtype == torch.float32
        assert torch.equal(vectors, tensors[name].float())
    assert lookup(file).problem("charm") is None


def test_a_single_vector_is_one_word(tmp_path: Path) -> None:
    file = tmp_path / "charm.safetensors"
    save_file({name: vectors[0].clone() for name, vectors in words().items()}, file)
    found = lookup(file).find("charm")
    assert found is not None
    assert [list(vectors.shape) for vectors in found] == [[1, 48], [1, 80]]


def test_the_names_are_those_of_the_files_and_others_mean_nothing(tmp_path: Path) -> None:
    embeddings = Embeddings({"charm": tmp_path / "charm.pt"}, WIDTHS)
    assert list(embeddings.names()) == ["charm"]
    assert embeddings.find("harm") is None
    assert embeddings.problem("harm") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"string_to_param": {"*": torch.zeros(2, 768)}, "name": "charm", "step": 500}, "768 values"),
        ({"emb_params": torch.zeros(2, 768)}, "768 values"),
        ({"<charm>": torch.zeros(48)}, "48 values"),
        ({"clip_g": torch.zeros(2, 80)}, "80 values"),
        ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "768 and 1280 values"),
        ({"step": 500}, "no values"),
        ([1, 2], "no values"),
    ],
)
def test_one_of_another_family_is_no_word_and_a_warning(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "charm.pt")
    embeddings = lookup(tmp_path / "charm.pt")
    assert embeddings.find("charm") is None
    problem = embeddings.problem("charm")
    assert problem is not None
    assert said in problem
    assert "take 48 and 80" in problem
    assert "use one for SDXL" in problem


@pytest.mark.parametrize(
    "tensors",
    [
        {**words(), "clip_g": torch.zeros(2, 80)},
        {**words(), "clip_l": torch.full((3, 48), torch.nan)},
    ],
)
def test_vectors_that_cannot_be_right_are_a_warning(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "charm.safetensors")
    problem = lookup(tmp_path / "charm.safetensors").problem("charm")
    assert problem is not None
    assert "Download it again" in problem


class Trap:
    """Unpickled without restrictions, it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_code_in_a_pickled_file_is_not_run(tmp_path: Path, suffix: str) -> None:
    file, touched = tmp_path / f"charm{suffix}", tmp_path / "touched"
    torch.save({**words(), "trap": Trap(touched)}, file)
    embeddings = lookup(file)
    assert embeddings.find("charm") is None
    assert "cannot be used" in str(embeddings.problem("charm"))
    assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("content", [b"", b"garbage", bytes(5000)], ids=["empty", "garbage", "zeros"])
def test_a_damaged_file_is_a_warning(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"charm{suffix}"
    file.write_bytes(content)
    assert lookup(file).find("charm") is None
    assert "cannot be used" in str(lookup(file).problem("charm"))


def test_a_file_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    assert "cannot be used" in str(lookup(tmp_path / "charm.pt").problem("charm"))


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "charm.pt"
    embeddings = lookup(file)
    for count in (2, 5):
        torch.save(words(count), file)
        found = embeddings.find("charm")
        assert found is not None
        assert len(found[0]) == count
