"""Whether files that came with the package are still what they were: ``SHA256SUMS``, as ``sha256sum`` writes it."""

import hashlib
from pathlib import Path

from illustrious.errors import Unavailable

LIST = "SHA256SUMS"


def verify(folder: Path, title: str) -> None:
    """Raises ``Unavailable`` when a file named in the folder's list is missing or has changed.

    About a millisecond per megabyte. ``title`` is what the files are, for the message.
    """
    for line in _read(folder / LIST, title).decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256(_read(folder / name, title)).hexdigest() != digest:
            raise _damaged(title, f"{name} is not what it was")


def _read(file: Path, title: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _damaged(title, f"{file.name} cannot be read: {error.strerror}") from error


def _damaged(title: str, what: str) -> Unavailable:
    return Unavailable(f"{title} is damaged ({what}). Install the studio again: its files come with it.")
