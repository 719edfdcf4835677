"""What lies in folders of models: the studio's own, AUTOMATIC1111's and ComfyUI's.

A *root* holds folders of kinds (``kinds.FOLDERS``), in itself or in its ``models``, so the folder of either program
will do, and so will its ``models``. A root may be a folder of one kind itself. A root with nothing of the sort is a
heap: there every file tells by its header what it is.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from illustrious.catalog.identify import identify, readable
from illustrious.catalog.identity import Identity
from illustrious.catalog.kinds import FOLDERS, MARKS, SUFFIXES, Kind

SETTLED = 2_000_000_000
"""Nanoseconds after which a folder's time of change can be trusted to tell the next change, too: FAT counts in 2 s."""

BESIDE_CHECKPOINTS = ".vae."
"""In the name of a VAE that lies beside its checkpoint, as AUTOMATIC1111's users keep it."""


class Scan:
    """Everything of one kind in the roots, found at once when this is made.

    ``found`` is path below the folder of the kind (with ``/`` and suffix) → file or diffusers folder; of two of the
    same path, the one of the earlier root. ``problems`` are folders that cannot be read, and damaged files in a heap,
    in words. ``identified`` tells what a file in a heap is.
    """

    def __init__(self, kind: Kind, roots: Iterable[Path], identified: Callable[[Path], Identity] = identify) -> None:
        self.kind = kind
        self._identified = identified
        self.found: dict[str, Path] = {}
        self.problems: list[str] = []
        self._began = time.time_ns()
        self._stamps: dict[Path, int | None] = {}
        self._entered: set[tuple[int, int]] = set()
        for root in roots:
            for folder, holds in self._folders(root):
                if self._enters(folder):
                    self._collect(folder, holds, "")

    @property
    def fresh(self) -> bool:
        """Whether nothing was added, renamed or taken away since."""
        return all(stamp == _changed(folder) for folder, stamp in self._stamps.items())

    def _folders(self, root: Path) -> Iterator[tuple[Path, Kind | None]]:
        """Where to look, and what lies there; ``None``: anything."""
        name = root.name.lower()
        sorted_by_kind = [root] if name in FOLDERS else [*self._named(root), *self._named(root / "models")]
        if not sorted_by_kind and self.kind != "wildcard":
            yield root, None
        for folder in sorted_by_kind:
            holds = FOLDERS[folder.name.lower()]
            if holds == self.kind or (holds, self.kind) == ("checkpoint", "vae"):
                yield folder, holds

    def _named(self, parent: Path) -> list[Path]:
        return [Path(entry.path) for entry in self._list(parent) if entry.name.lower() in FOLDERS and _is_folder(entry)]

    def _collect(self, folder: Path, holds: Kind | None, below: str) -> None:
        """All of this kind in the folder and what is under it."""
        entries = self._list(folder)
        names = {entry.name for entry in entries}
        if below and (MARKS["checkpoint"] in names or (holds == self.kind and MARKS.get(self.kind) in names)):
            if self.kind == "checkpoint" or MARKS["checkpoint"] not in names:
                self.found.setdefault(below.removesuffix("/"), folder)
            return
        for entry in entries:
            path, name = Path(entry.path), f"{below}{readable(entry.name)}"
            if _is_folder(entry):
                if self._enters(path):
                    self._collect(path, holds, f"{name}/")
            elif self._is_one(path, holds):
                self.found.setdefault(name, path)

    def _is_one(self, file: Path, holds: Kind | None) -> bool:
        if file.suffix.lower() not in SUFFIXES[self.kind] or not file.is_file():
            return False
        if holds == "checkpoint":
            return (self.kind == "vae") == (BESIDE_CHECKPOINTS in file.name.lower())
        if holds is not None:
            return holds == self.kind
        identity = self._identified(file)
        if identity.kind is None and identity.problem is not None:
            self.problems.append(identity.problem)
            self._stamps[file] = _changed(file)  # it may still be on its way here
        return identity.kind == self.kind

    def _enters(self, folder: Path) -> bool:
        """Whether this is the first time: links are followed, but into no folder twice."""
        try:
            status = folder.stat()
        except OSError:
            return False
        key = status.st_dev, status.st_ino
        first = key not in self._entered
        self._entered.add(key)
        return first

    def _list(self, folder: Path) -> list[os.DirEntry[str]]:
        """What is in it, in the order of names, without what is hidden."""
        changed = _changed(folder)
        self._stamps[folder] = None if changed > self._began - SETTLED else changed
        try:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            problem = f"{readable(str(folder))} cannot be read ({error.strerror}). Mend its permissions."
            self.problems.append(problem)
            return []
        return sorted(shown, key=lambda entry: (entry.name.lower(), entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _changed(folder: Path) -> int:
    """When, in nanoseconds since 1970; −1 when it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1
