"""Hashes in the forms that others know models by; each file is read once."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from illustrious.catalog.hashes import Hashes
from illustrious.catalog.library import Entry, Library
from tests.catalog.headers import LORA, write_header


@pytest.fixture
def checkpoint(tmp_path: Path) -> Entry:
    path = tmp_path / "checkpoints" / "a.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return Entry("checkpoint", "a", path)


@pytest.fixture
async def hashes(tmp_path: Path) -> AsyncIterator[Hashes]:
    hashes = Hashes(tmp_path / "hashes.json")
    yield hashes
    await hashes.close()


async def test_a_checkpoints_is_that_of_its_file(hashes: Hashes, checkpoint: Entry) -> None:
    assert hashes.short(checkpoint) is None
    found = await hashes.of(checkpoint)
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert hashes.short(checkpoint) == found.sha256[:10]


async def test_a_loras_is_that_of_its_tensors_whatever_its_metadata(hashes: Hashes, tmp_path: Path) -> None:
    first = write_header(tmp_path / "first.safetensors", LORA, {"ss_tag": "a"})
    second = write_header(tmp_path / "second.safetensors", LORA, {"ss_tag": "something longer"})
    entries = [Entry("lora", path.stem, path) for path in (first, second)]
    found = [await hashes.of(entry) for entry in entries]
    assert found[0] and found[1] and found[0].sha256 != found[1].sha256
    length = 8 + int.from_bytes(first.read_bytes()[:8], "little")
    assert hashes.short(entries[0]) == hashlib.sha256(first.read_bytes()[length:]).hexdigest()[:12]
    assert hashes.short(entries[0]) == hashes.short(entries[1])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    digests: Callable[[Hashes, Entry], Any] = Hashes._digests

    def counted(self: Hashes, entry: Entry) -> Any:
        read.append(entry.path)
        return digests(self, entry)

    monkeypatch.setattr(Hashes, "_digests", counted)
    return read


async def test_a_file_is_read_once_whoever_asks_and_after_a_restart(
    hashes: Hashes, checkpoint: Entry, tmp_path: Path, reads: list[Path]
) -> None:
    found = await asyncio.gather(*(hashes.of(checkpoint) for _ in range(5)))
    assert len(set(map(str, found))) == 1
    later = Hashes(tmp_path / "hashes.json")
    assert await later.of(checkpoint) == found[0]
    await later.close()
    assert reads == [checkpoint.path]


async def test_one_that_was_replaced_is_read_anew(hashes: Hashes, checkpoint: Entry) -> None:
    await hashes.of(checkpoint)
    checkpoint.path.write_bytes(b"other weights")
    assert hashes.known(checkpoint) is None
    found = await hashes.of(checkpoint)
    assert found is not None and found.sha256 == hashlib.sha256(b"other weights").hexdigest()


async def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_alone(
    checkpoint: Entry, tmp_path: Path
) -> None:
    (tmp_path / "hashes.json").write_text('{"a": [')
    (tmp_path / "taken").touch()
    for memory in (tmp_path / "hashes.json", tmp_path / "taken" / "hashes.json"):
        hashes = Hashes(memory)
        assert await hashes.of(checkpoint) == hashes.known(checkpoint) is not None
        await hashes.close()
    assert json.loads((tmp_path / "hashes.json").read_text())[str(checkpoint.path)]["size"] == 7


async def test_a_folder_and_a_file_that_is_gone_have_none(hashes: Hashes, tmp_path: Path) -> None:
    assert await hashes.of(Entry("checkpoint", "folder", tmp_path)) is None
    assert await hashes.of(Entry("checkpoint", "gone", tmp_path / "gone.safetensors")) is None


async def test_closing_stops_it_in_the_middle_of_a_file(hashes: Hashes, checkpoint: Entry) -> None:
    os.truncate(checkpoint.path, 2**40)  # a hole in the disk, which would take half an hour to read
    asking = asyncio.create_task(hashes.of(checkpoint))
    await asyncio.sleep(0)
    await hashes.close()
    assert await asking is None


async def test_the_library_finds_by_what_is_known(hashes: Hashes, checkpoint: Entry, tmp_path: Path) -> None:
    found = await hashes.of(checkpoint)
    assert found is not None
    library = Library([tmp_path], hashes=hashes.spellings)
    assert library.find("checkpoint", found.sha256[:10]) == checkpoint
    assert library.find("checkpoint", f"renamed.safetensors [{found.sha256[:10]}]") == checkpoint
