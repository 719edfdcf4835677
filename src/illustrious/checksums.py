"""Whether files that came with the package are still what they were: ``SHA256SUMS``, as ``sha256sum`` writes it."""

import hashlib
from pathlib import Path

from illustrious.errors import Unavailable

LIST = "SHA256SUMS"


def verify(folder: Path, title: str, only: str | None = None) -> None:
    """Raises ``Unavailable`` when a file named in the folder's list is missing or has changed, or ``only`` this one,
    which must be named there.

    About a millisecond per megabyte. ``title`` is what the files are, for the message.
    """
    lines = _read(folder / LIST, title).decode("utf-8", "replace").splitlines()
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in digests if only is None else (only,):
        if hashlib.sha256(_read(folder / name, title)).hexdigest() != digests.get(name):
            raise _damaged(title, f"{name} is not what it was")


def _read(file: Path, title: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _damaged(title, f"{file.name} cannot be read: {error.strerror}") from error


def _damaged(title: str, what: str) -> Unavailable:
    return Unavailable(f"{title} is damaged ({what}). Install the studio again: its files come with it.")
