"""Models by the names that requests call them."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.catalog.library import STARTER, Entry, Library
from illustrious.errors import InvalidRequest
from tests.catalog.headers import SD1, SDXL, write_header
from tests.catalog.test_scan import settle, touch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(
        tmp_path / "loras", "style/Ink.safetensors", "style/oil.safetensors", "old/oil.safetensors", "plain.safetensors"
    )
    touch(tmp_path / "embeddings", "neg/Easy.safetensors", "Easy.pt", "word.pt", "word.safetensors")
    touch(tmp_path / "wildcards", "people/hair.txt")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["style/Ink", "style/Ink.safetensors", "STYLE/ink", r"style\Ink", "ink", "Ink.safetensors"]
)
def test_one_file_has_many_spellings(root: Path, name: str) -> None:
    found = Library([root]).find("lora", name)
    assert found == Entry("lora", "style/Ink", root / "loras" / "style" / "Ink.safetensors")


def test_a_name_that_fits_several_asks_which(root: Path) -> None:
    with pytest.raises(InvalidRequest, match="“old/oil” or “style/oil”") as raised:
        Library([root]).find("lora", "oil", field="loras")
    assert raised.value.field == "loras"


def test_a_missing_one_names_what_is_near_or_where_it_goes(root: Path) -> None:
    library = Library([root])
    with pytest.raises(InvalidRequest, match=r"There is no LoRA “plane”\. Did you mean “plain”\?"):
        library.find("lora", "plane")
    with pytest.raises(InvalidRequest, match=r"There are Easy, neg/Easy, word\.pt, word\."):
        library.find("embedding", "?")
    with pytest.raises(InvalidRequest, match="upscalers"):
        library.find("upscaler", "4x")


def test_of_files_that_differ_by_suffix_safetensors_has_the_plain_name(root: Path) -> None:
    library = Library([root])
    assert library.find("embedding", "word").path.suffix == ".safetensors"
    assert library.find("embedding", "word.pt").path.suffix == ".pt"


@given(
    name=st.one_of(
        st.text(), st.sampled_from(["..", "/etc/passwd", "../loras/plain", "style/../plain", "~", "C:\\x", "\0"])
    )
)
def test_no_name_is_made_into_a_path(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "library"
    touch(folder, "loras/plain.safetensors", "secret.safetensors")
    library = Library([folder])
    try:
        found = library.find("lora", name)
    except InvalidRequest:
        return
    assert found.name == "plain"


def test_hashes_will_do_where_they_are_known(root: Path) -> None:
    def hashes(entry: Entry) -> Iterable[str]:
        return {"plain": ("31e35c80fc4829d1" * 4,)}.get(entry.name, ())

    library = Library([root], hashes=hashes)
    assert library.find("lora", "31e35c80fc").name == "plain"
    assert library.find("lora", "renamed.safetensors [31E35C80FC]").name == "plain"
    with pytest.raises(InvalidRequest):
        library.find("lora", "0000000000")


def test_words_and_wildcards_for_prompts(root: Path) -> None:
    library = Library([root])
    assert set(library.embeddings()) == {"Easy", "word", "word.pt"}
    assert library.wildcards() == {"people/hair": root / "wildcards" / "people" / "hair.txt"}


def test_what_comes_while_it_runs_is_found(root: Path) -> None:
    library = Library([root])
    with pytest.raises(InvalidRequest):
        library.find("lora", "new")
    touch(root, "loras/new.safetensors")
    assert library.find("lora", "new").path.exists()


def test_the_default_is_the_first_that_can_be_drawn_with_else_the_starter(tmp_path: Path) -> None:
    library = Library([tmp_path])
    assert library.default() == library.checkpoint() == library.checkpoint("sdxl-starter") == STARTER
    assert library.identity(STARTER).family == "starter"
    write_header(tmp_path / "checkpoints" / "a.safetensors", SD1)
    write_header(tmp_path / "checkpoints" / "b.safetensors", SDXL)
    touch(tmp_path, "checkpoints/0.ckpt")
    assert library.default().name == "b"


def test_the_configured_one_wins_as_path_or_name_and_is_not_replaced_when_it_is_gone(tmp_path: Path) -> None:
    file = write_header(tmp_path / "models" / "checkpoints" / "sub" / "b.safetensors", SDXL)
    own = write_header(tmp_path / "own.safetensors", SDXL)
    roots = [tmp_path / "models"]
    assert Library(roots, str(file)).default() == Entry("checkpoint", "sub/b", file)
    assert Library(roots, "B.safetensors").default() == Entry("checkpoint", "sub/b", file)
    assert Library(roots, str(own)).default() == Entry("checkpoint", "own", own)
    assert Library(roots, "gone").default() == Entry("checkpoint", "gone", Path("gone"))


def test_a_configured_one_that_lies_elsewhere_is_called_like_the_others(tmp_path: Path) -> None:
    own = write_header(tmp_path / "downloads" / "own.safetensors", SDXL)
    models = tmp_path / "models"
    library = Library([models], str(own))
    assert library.entries("checkpoint") == (library.default(), STARTER)
    assert library.checkpoint("own") == library.checkpoint("own.safetensors") == library.default()
    write_header(models / "checkpoints" / "own.safetensors", SDXL)
    library = Library([models], str(own))
    assert library.checkpoint("own").path.parent.name == "checkpoints"
    assert library.default() == library.checkpoint("downloads/own") == Entry("checkpoint", "downloads/own", own)


def test_a_file_that_was_replaced_is_identified_anew(tmp_path: Path) -> None:
    file = write_header(tmp_path / "checkpoints" / "a.safetensors", SDXL)
    library = Library([tmp_path])
    assert library.identity(library.find("checkpoint", "a")).base == "sdxl"
    write_header(file, SD1)
    assert library.identity(library.find("checkpoint", "a")).base == "sd1"


def test_what_keeps_models_from_being_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, heap = tmp_path / "models", tmp_path / "heap"
    touch(own, "loras/locked/b.safetensors")
    write_header(heap / "mix.safetensors", SDXL)
    part = heap / "half.safetensors"
    part.write_bytes((heap / "mix.safetensors").read_bytes()[:200])
    read = os.scandir

    def scandir(folder: Path) -> Any:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    library = Library([own, heap, tmp_path / "typo"])
    gone, damaged, locked = library.problems()
    assert gone == f"There is no folder {tmp_path / 'typo'}. Correct --models-dir."
    assert "locked cannot be read (Permission denied). Mend its permissions." in locked
    assert f"{part} is damaged or incomplete" in damaged and "Download it again" in damaged


def test_a_file_that_was_still_on_its_way_into_a_heap_is_found_when_it_is_whole(tmp_path: Path) -> None:
    """It grows without any change to its folder."""
    whole = write_header(tmp_path / "mix.safetensors", SDXL).read_bytes()
    (tmp_path / "mix.safetensors").write_bytes(whole[:200])
    settle(tmp_path)
    library = Library([tmp_path])
    assert [entry.name for entry in library.entries("checkpoint")] == ["sdxl-starter"]
    assert len(library.problems()) == 1
    with (tmp_path / "mix.safetensors").open("ab") as file:
        file.write(whole[200:])
    assert library.find("checkpoint", "mix").path == tmp_path / "mix.safetensors"
    assert library.problems() == ()


def test_it_needs_neither_torch_nor_a_database() -> None:
    code = "import sys, illustrious.catalog.library; print({'torch', 'sqlalchemy', 'fastapi'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_what_comes_with_the_package_goes_last_and_gives_way_to_a_file_of_its_name(root: Path) -> None:
    ours = tuple(Entry("lora", name, root / "ours" / f"{name}.safetensors") for name in ("plain", "starter-style"))
    names = {entry.name: entry.path for entry in Library([root], others=ours).entries("lora")}
    assert list(names)[-1] == "starter-style"
    assert names["plain"] == root / "loras" / "plain.safetensors"
