"""Pictures as one ZIP file, made while it is sent: in memory is one piece of one picture, however many there are."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from illustrious.gallery.files import is_picture
from illustrious.gallery.table import Picture

PIECE = 256 * 1024
UNSAFE = re.compile(r"[^\w.()+=,@ -]|^[. ]+|[. ]+$")
"""What some system forbids in a file name or gives a meaning to."""

LONGEST_NAME = 120
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The format knows no time before."""


class _Outbox(io.RawIOBase):
    """A stream that cannot seek, so ``zipfile`` writes each size after its file; what was written waits in ``take``."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._written += piece
        return len(piece)

    def take(self) -> bytes:
        piece = bytes(self._written)
        self._written.clear()
        return piece


def zip_stream(pictures: Iterable[Picture], folder: Path) -> Iterator[bytes]:
    """The ZIP file (stored, ZIP64 where needed) in pieces. A picture whose file went meanwhile is left out."""
    outbox = _Outbox()
    names: set[str] = set()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            file = folder / picture.path
            try:
                if not is_picture(file):
                    continue
                source = file.open("rb")
            except OSError:
                continue
            with source:
                time = max(picture.created.timetuple()[:6], EARLIEST)
                entry = zipfile.ZipInfo(_unique(name_of(picture), names), time)
                entry.external_attr = 0o644 << 16
                entry.file_size = picture.bytes
                with archive.open(entry, "w", force_zip64=picture.bytes > zipfile.ZIP64_LIMIT // 2) as target:
                    while piece := source.read(PIECE):
                        target.write(piece)
                        yield outbox.take()
            yield outbox.take()
    yield outbox.take()


def name_of(picture: Picture) -> str:
    """``2023-11-14/221320-<id>.png``: the day, and the file's own name as far as every system can have it."""
    name = PurePosixPath(picture.path)
    stem = UNSAFE.sub("_", name.stem)[:LONGEST_NAME] or picture.id
    return f"{picture.created:%Y-%m-%d}/{stem}{name.suffix.lower()}"


def _unique(name: str, taken: set[str]) -> str:
    """Also where capitals make no difference."""
    path, number = PurePosixPath(name), 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.parent}/{path.stem} ({number}){path.suffix}"
    taken.add(name.casefold())
    return name
