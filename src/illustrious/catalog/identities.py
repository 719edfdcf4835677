"""What model files are, remembered: each is read once, and again when it or what lies beside it has changed.

A header takes milliseconds to read, and some people have thousands of LoRAs; so what was found is kept in a file from
one start to the next. Engines look into the same file, in processes of their own.
"""

import logging
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from illustrious import __version__
from illustrious.catalog.families import SIDECAR
from illustrious.catalog.folder import READ as READ_IN_FOLDER
from illustrious.catalog.identify import identify, readable
from illustrious.catalog.identity import Identity
from illustrious.types import Noun

log = logging.getLogger(__name__)

WRITE_EVERY = 5.0
"""Seconds: what is found while thousands of files are read is not lost when somebody ends the process."""

Stamp = tuple[tuple[int, int] | None, ...]
"""Size and time of change (nanoseconds since 1970) of everything that was looked at; ``None`` where nothing was."""


class Known(Noun):
    stamp: Stamp
    identity: Identity


class Memory(Noun):
    """What is in the file. Another version may identify otherwise, and finds everything anew."""

    version: str
    files: dict[str, Known]


class Identities:
    """By path, from any thread. ``memory`` is the file, ``None`` for none; those who only look into it do not
    ``write``."""

    def __init__(self, memory: Path | None = None, write: bool = True) -> None:
        self._memory = memory
        self._write = write
        self._known: dict[str, Known] = {}
        self._read: tuple[int, int] | None = None
        self._is_new = False
        self._written = time.monotonic()
        self._writing = threading.Lock()

    def of(self, path: Path) -> Identity:
        """Never raises: what is damaged or not there says so in ``problem``."""
        key, stamp = str(path.absolute()), _stamp(path)
        found = self._known.get(key)
        if found is None and self._look():
            found = self._known.get(key)
        if found is None or found.stamp != stamp:
            found = Known(stamp=stamp, identity=identify(path))
            self._known[key] = found
            self._is_new = True
            if time.monotonic() - self._written > WRITE_EVERY:
                self.keep()
        return found.identity

    def keep(self) -> None:
        """Write down what is new."""
        if self._memory is None or not self._write or not self._is_new or not self._memory.parent.is_dir():
            return
        if not self._writing.acquire(blocking=False):
            return
        try:
            self._is_new, self._written = False, time.monotonic()
            files = {key: known for key, known in self._known.copy().items() if readable(key) == key}
            text = Memory(version=__version__, files=files).model_dump_json(exclude_defaults=True)
            beside = self._memory.with_name(f".{self._memory.name}.part")
            beside.write_text(text, "utf-8")
            beside.replace(self._memory)
            self._read = _standing(self._memory)
        except OSError as error:
            log.warning("%s cannot be written (%s); models will be identified again", self._memory, error)
        finally:
            self._writing.release()

    def _look(self) -> bool:
        """Into the file, if it is another than last time. Damaged, or of another version, it is as good as none."""
        if self._memory is None or (standing := _standing(self._memory)) in (None, self._read):
            return False
        self._read = standing
        try:
            memory = Memory.model_validate_json(self._memory.read_bytes())
        except (OSError, ValidationError):
            return False
        if memory.version == __version__:
            self._known = {**self._known, **memory.files}
        return True


def _stamp(path: Path) -> Stamp:
    """Of everything that ``identify`` reads there."""
    if path.is_dir():
        return tuple(_standing(path / part) for part in ("", *READ_IN_FOLDER))
    return _standing(path), _standing(path.with_name(path.stem + SIDECAR)), _standing(path.with_suffix(".yaml"))


def _standing(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
