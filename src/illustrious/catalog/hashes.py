"""Hashes of model files, as the web UI writes them into pictures and as sharing sites look models up by them.

- A checkpoint's *short hash* is the first 10 hex digits of its file's SHA-256 (Civitai: AutoV2).
- A LoRA's is the first 12 of the SHA-256 of its tensors alone, everything after the header of the safetensors file
  (AUTOMATIC1111 and kohya; Civitai: AutoV3): metadata may be edited without another hash.

A file of 7 GB takes seconds to read, so each is read once, by a thread of its own, and its hashes are remembered in a
file until its size or time of change are others.
"""

import asyncio
import hashlib
import json
import logging
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from illustrious.catalog.identify import readable
from illustrious.catalog.library import Entry
from illustrious.catalog.safetensors_header import LONGEST
from illustrious.types import Noun

log = logging.getLogger(__name__)

SHORT_CHECKPOINT = 10
SHORT_LORA = 12

PIECE = 4 * 2**20
"""Bytes read at a time; between two it can be stopped."""


class FileHashes(Noun):
    """Hex digits. ``tensors`` is that of a LoRA's tensors; ``size`` in bytes and ``changed`` in nanoseconds since 1970
    tell whether the file is still the same."""

    size: int
    changed: int
    sha256: str
    tensors: str | None = None


_files: TypeAdapter[dict[str, FileHashes]] = TypeAdapter(dict[str, FileHashes])


class Hashes:
    """Hashes of entries, remembered in the JSON file ``memory``. ``of`` is for one event loop, the rest for any
    thread."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known = _read(memory)
        self._under_way: dict[Path, asyncio.Future[FileHashes | None]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="hashes")
        self._stop = threading.Event()

    def known(self, entry: Entry) -> FileHashes | None:
        """Without reading the file; ``None``: not yet, or it is a folder or no longer the same."""
        found = self._known.get(_key(entry))
        return found if found is not None and _standing(entry.path) == (found.size, found.changed) else None

    def spellings(self, entry: Entry) -> tuple[str, ...]:
        """All the hashes that are known for the entry."""
        found = self.known(entry)
        return () if found is None else (found.sha256, *((found.tensors,) if found.tensors else ()))

    def short(self, entry: Entry) -> str | None:
        """What the web UI calls the file in a picture's parameters, where it is known."""
        found = self.known(entry)
        return None if found is None else shortened(entry, found)

    async def of(self, entry: Entry) -> FileHashes | None:
        """Known or computed now; whoever asks meanwhile waits for the same. ``None`` for a folder, for a file that
        cannot be read or changes while it is read, and when closed."""
        found = await asyncio.to_thread(self.known, entry)
        if found is not None or self._stop.is_set():
            return found
        reading = self._under_way.get(entry.path)
        if reading is None:
            reading = asyncio.get_running_loop().run_in_executor(self._reader, self._compute, entry)
            self._under_way[entry.path] = reading
            reading.add_done_callback(lambda _: self._under_way.pop(entry.path))
        return await asyncio.shield(reading)

    async def close(self) -> None:
        """Stop reading; what is half read is read again another time."""
        self._stop.set()
        await asyncio.to_thread(self._reader.shutdown)

    def _compute(self, entry: Entry) -> FileHashes | None:
        before = _standing(entry.path)
        if before is None:
            return None
        try:
            whole, tensors = self._digests(entry)
        except OSError as error:
            log.warning("%s cannot be hashed: %s", entry.path, error)
            return None
        if self._stop.is_set() or _standing(entry.path) != before:
            return None
        found = FileHashes(size=before[0], changed=before[1], sha256=whole, tensors=tensors)
        self._known = {**self._known, _key(entry): found}
        _write(self._memory, self._known)
        return found

    def _digests(self, entry: Entry) -> tuple[str, str | None]:
        whole, tensors = hashlib.sha256(), hashlib.sha256()
        of_tensors = entry.kind == "lora" and entry.path.suffix.lower() == ".safetensors"
        with entry.path.open("rb") as file:
            if of_tensors:
                length = file.read(8)
                header = length + file.read(min(int.from_bytes(length, "little"), LONGEST))
                whole.update(header)
            while not self._stop.is_set() and (piece := file.read(PIECE)):
                whole.update(piece)
                if of_tensors:
                    tensors.update(piece)
        return whole.hexdigest(), tensors.hexdigest() if of_tensors else None


def shortened(entry: Entry, hashes: FileHashes) -> str:
    if entry.kind == "lora":
        return (hashes.tensors or hashes.sha256)[:SHORT_LORA]
    return hashes.sha256[:SHORT_CHECKPOINT]


def _standing(path: Path) -> tuple[int, int] | None:
    """Size and time of change; ``None`` when there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _key(entry: Entry) -> str:
    return readable(str(entry.path))


def _read(memory: Path) -> dict[str, FileHashes]:
    """Damaged or from another version, it is as good as none: everything in it can be computed again."""
    try:
        return _files.validate_json(memory.read_bytes())
    except (OSError, ValidationError):
        return {}


def _write(memory: Path, files: dict[str, FileHashes]) -> None:
    beside = memory.with_name(f".{memory.name}.part")
    try:
        beside.write_text(json.dumps({path: hashes.model_dump() for path, hashes in files.items()}), "utf-8")
        beside.replace(memory)
    except OSError as error:
        log.warning("%s cannot be written (%s); hashes will be computed again", memory, error)
