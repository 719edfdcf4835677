"""Files that came, changed, moved or went while the studio was not looking, brought into the rows.

A file whose size and time of change are as they were is not opened. A new file with the pixels of a picture whose file
is gone is that picture, moved; so its rating and tags stay with it. Also mended here: what a process that died left
between a file and its row.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import stat_result
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import Connection, Row, select, update

from illustrious.database import Database
from illustrious.errors import InvalidRequest, TooLarge
from illustrious.gallery import foreign, formats, table
from illustrious.gallery.files import SUFFIXES, is_picture, read_own_path, remove_unfinished, trash_path, walk
from illustrious.gallery.table import images
from illustrious.pictures import open_picture
from illustrious.types import Noun

SOURCE = "scan"
MAX_PIXELS = 100_000_000
MAX_BYTES = 500_000_000
BATCH = 16
"""Pictures opened, or looked at many times as many, before others get their turn."""

LOOKS = 500
NAMED = 20
UNFINISHED_AFTER = 3600.0
"""Seconds after which a file that a writer left half-way is surely nobody's."""


class ScanReport(Noun):
    """How many pictures were new, had changed, were found under another path, came back, or are gone (their rows are
    kept, hidden). ``unreadable`` names the first files that are no whole pictures, of ``skipped`` such."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    returned: int = 0
    missing: int = 0
    skipped: int = 0
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    id: str
    state: str
    bytes: int
    mtime: int

    def is_as(self, stat: stat_result) -> bool:
        return (self.bytes, self.mtime) == (stat.st_size, stat.st_mtime_ns)


@dataclass
class Scan:
    """One scan of ``folder``/images. Blocks, in small pieces: see ``pieces``."""

    database: Database
    folder: Path
    now: float
    counts: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def pieces(self) -> Iterator[ScanReport]:
        """Work on for a moment, tell how far it came, and so on to the end; the last report is the whole."""
        known = self._known()
        waiting: list[tuple[str, stat_result]] = []
        for looked, (path, stat) in enumerate(walk(self.folder)):
            before = known.pop(path, None)
            if before is None or before.state != "shown" or not before.is_as(stat):
                waiting.append((path, stat))
            if len(waiting) == BATCH:
                self._index(waiting)
                waiting = []
                yield self._report()
            elif looked % LOOKS == LOOKS - 1:
                yield self._report()
        self._index(waiting)
        yield self._report()
        unseen = [(path, row) for path, row in known.items() if row.state == "shown"]
        for start in range(0, len(unseen), LOOKS):
            self._hide(unseen[start : start + LOOKS])
            yield self._report()
        remove_unfinished(self.folder, before=self.now - UNFINISHED_AFTER)
        yield self._report()

    def _report(self) -> ScanReport:
        return ScanReport(**self.counts, unreadable=tuple(self.unreadable))

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _known(self) -> dict[str, Known]:
        columns = (images.c.path, images.c.id, images.c.state, images.c.bytes, images.c.mtime)
        with self.database.read() as connection:
            rows = connection.execute(select(*columns).where(images.c.state != "trashed"))
            return {path: Known(*rest) for path, *rest in rows}

    def _index(self, files: list[tuple[str, stat_result]]) -> None:
        """Read the files, then write their rows in one short transaction."""
        read = [(path, values) for path, stat in files if (values := self._read(path, stat)) is not None]
        if not read:
            return
        with self.database.begin() as connection:
            for path, values in read:
                self._enter(connection, path, values)

    def _read(self, path: str, stat: stat_result) -> dict[str, Any] | None:
        """What the file itself says, as columns; ``None`` and a note when it is no whole picture."""
        try:
            path.encode()
            if stat.st_size > MAX_BYTES:
                raise TooLarge(path)
            picture = open_picture((self.folder / path).read_bytes(), MAX_PIXELS)
        except (OSError, UnicodeEncodeError, InvalidRequest, TooLarge):
            self._count("skipped")
            if len(self.unreadable) < NAMED:
                self.unreadable.append(path.encode("utf-8", "replace").decode())
            return None
        recipe = foreign.read(picture) or foreign.Recipe(tool="")
        return {
            "path": path,
            "bytes": stat.st_size,
            "mtime": stat.st_mtime_ns,
            "format": SUFFIXES[PurePosixPath(path).suffix.lower()],
            "pixels": formats.digest(picture),
            "width": picture.width,
            "height": picture.height,
            **recipe.model_dump(exclude={"tool"}),
        }

    def _enter(self, connection: Connection, path: str, values: dict[str, Any]) -> None:
        row = connection.execute(select(images).where(images.c.path == path)).one_or_none()
        moved = None if row is not None else self._moved(connection, path, values["pixels"])
        if row is not None and row.state == "shown" and (row.bytes, row.mtime) == (values["bytes"], values["mtime"]):
            return  # saved while we looked
        if row is not None:
            self._count("returned" if row.state == "missing" else "changed")
            table.put(connection, row.id, {**_of_file(row, values), "state": "shown"})
        elif moved is not None:
            self._count("moved")
            back = {"state": "shown", "origin": None, "trashed": None}
            table.put(connection, moved.id, {**_of_file(moved, values), **back})
        else:
            self._count("added")
            image_id, created = read_own_path(path) or ("", min(max(values["mtime"] / 1e9, 0.0), self.now))
            if not image_id or table.find(connection, image_id) is not None:
                image_id = secrets.token_hex(8)
            table.put(connection, image_id, {**values, "created": created, "source": SOURCE})

    def _moved(self, connection: Connection, path: str, pixels: str) -> Row[Any] | None:
        """The picture whose file this was: the same pixels, and its own file gone; of several the one of that name."""
        rows = connection.execute(select(images).where(images.c.pixels == pixels)).all()
        gone = [row for row in rows if not is_picture(self.folder / row.path)]
        name = PurePosixPath(path).name
        return next((row for row in gone if PurePosixPath(row.path).name == name), gone[0] if gone else None)

    def _hide(self, unseen: list[tuple[str, Known]]) -> None:
        """Looked at once more, within the transaction: one may have been saved or brought back meanwhile."""
        with self.database.begin() as connection:
            for path, row in unseen:
                if is_picture(self.folder / path):
                    continue
                in_trash = trash_path(row.id, path)
                if is_picture(self.folder / in_trash):  # a deletion that died between the file and the row
                    values = {"state": "trashed", "path": in_trash, "origin": path, "trashed": self.now}
                else:
                    values = {"state": "missing"}
                found = connection.execute(
                    update(images)
                    .where(images.c.id == row.id, images.c.path == path, images.c.state == "shown")
                    .values(values)
                )
                if found.rowcount and values["state"] == "missing":
                    self._count("missing")


def _of_file(row: Row[Any], values: dict[str, Any]) -> dict[str, Any]:
    """What to change in a row whose file changed. How the studio's own pictures were made is known better from the row
    than from any file."""
    facts = ("path", "bytes", "mtime", "format", "pixels", "width", "height")
    return values if row.source == SOURCE else {name: values[name] for name in facts}
