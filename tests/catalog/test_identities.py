"""Files are read once, and again when they or what lies beside them change."""

import json
import os
from pathlib import Path

import pytest

from illustrious.catalog import identities as identities_module
from illustrious.catalog.identify import identify
from illustrious.catalog.identities import Identities
from illustrious.catalog.identity import Identity
from tests.catalog.headers import LORA, SDXL, write_header


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was read, each time it was."""
    names: list[str] = []

    def read(path: Path) -> Identity:
        names.append(path.name)
        return identify(path)

    monkeypatch.setattr(identities_module, "identify", read)
    return names


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "identities.json"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_header(tmp_path / "loras" / "ink.safetensors", LORA)


def test_a_file_is_read_once_and_not_again_after_a_restart(memory: Path, lora: Path, reads: list[str]) -> None:
    before = Identities(memory)
    assert before.of(lora) == before.of(lora) == identify(lora)
    before.keep()
    assert Identities(memory).of(lora) == identify(lora)
    assert reads == ["ink.safetensors"]


def test_what_is_put_beside_others_is_read_alone(memory: Path, lora: Path, reads: list[str]) -> None:
    known = Identities(memory)
    known.of(lora)
    other = write_header(lora.with_name("oil.safetensors"), LORA)
    assert {known.of(path).kind for path in (lora, other)} == {"lora"}
    assert reads == ["ink.safetensors", "oil.safetensors"]


def test_a_file_is_read_again_when_it_or_what_lies_beside_it_changes(tmp_path: Path, reads: list[str]) -> None:
    known = Identities()
    file = write_header(tmp_path / "mine.safetensors", LORA)
    assert known.of(file).kind == "lora"
    write_header(file, SDXL)
    assert (known.of(file).kind, known.of(file).family) == ("checkpoint", "sdxl")
    file.with_name("mine.civitai.info").write_text(json.dumps({"baseModel": "Pony"}), "utf-8")
    assert known.of(file).family == "pony"
    file.with_name("mine.yaml").write_text("parameterization: v", "utf-8")
    prediction = known.of(file).prediction
    assert prediction is not None and prediction.type == "v_prediction"
    file.unlink()
    assert "cannot be read" in str(known.of(file).problem)
    assert len(reads) == 5


def test_a_folder_is_read_again_when_its_parts_change(tmp_path: Path, reads: list[str]) -> None:
    known = Identities()
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert known.of(tmp_path).kind == known.of(tmp_path).kind == "vae"
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    assert known.of(tmp_path).kind == "controlnet"
    assert len(reads) == 2


def test_an_engine_learns_what_the_server_has_found_meanwhile_and_writes_nothing(
    memory: Path, lora: Path, reads: list[str]
) -> None:
    server, engine = Identities(memory), Identities(memory, write=False)
    server.of(lora)
    server.keep()
    assert engine.of(lora).kind == "lora"
    assert reads == ["ink.safetensors"]
    written = memory.read_bytes()
    engine.of(write_header(lora.with_name("oil.safetensors"), LORA))
    engine.keep()
    assert memory.read_bytes() == written


def test_what_is_found_in_a_long_time_is_written_on_the_way(
    memory: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Identities(memory)
    monkeypatch.setattr(identities_module, "WRITE_EVERY", -1.0)
    known.of(lora)
    assert str(lora) in memory.read_text("utf-8")


@pytest.mark.parametrize("content", ["{", "{}", '{"version": "0.0.0", "files": {}}', "\ud800"])
def test_a_memory_that_is_damaged_or_old_costs_time_alone(
    memory: Path, lora: Path, reads: list[str], content: str
) -> None:
    before = Identities(memory)
    before.of(lora)
    before.keep()
    old = memory.read_text("utf-8").replace(f'"version":"{identities_module.__version__}"', '"version":"0.0.0"')
    for text in (content, old):
        memory.write_bytes(text.encode("utf-8", "surrogatepass"))
        reads.clear()
        assert Identities(memory).of(lora).kind == "lora"
        assert reads == ["ink.safetensors"]


def test_a_memory_that_cannot_be_written_costs_time_alone(tmp_path: Path, lora: Path) -> None:
    (tmp_path / "taken").mkdir()
    for memory in (tmp_path / "taken", tmp_path / "gone" / "identities.json"):
        known = Identities(memory)
        assert known.of(lora).kind == "lora"
        known.keep()
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_utf_8_is_not_written_down(memory: Path, lora: Path) -> None:
    odd = write_header(lora.with_name(os.fsdecode(b"caf\xe9.safetensors")), LORA)
    known = Identities(memory)
    assert "Rename it" in str(known.of(odd).problem)
    known.of(lora)
    known.keep()
    assert list(json.loads(memory.read_text("utf-8"))["files"]) == [str(lora)]
