"""The folder: where a picture's file is, and how files are written, moved and found without loss."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from illustrious.system import sync_folder

IMAGES, TRASH = "images", "trash"
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""File name endings (in lower case) of the pictures the gallery keeps, and their formats."""

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
OWN_NAME = re.compile(rf"{IMAGES}/(\d{{4}})/(\d\d)/(\d\d)/(\d\d)(\d\d)(\d\d)-({ID.pattern})\.\w+")
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.part")


def own_path(image_id: str, created: float, suffix: str) -> str:
    """``images/2023/11/14/221320-<id>.png``: told by the id and the time of making (UTC) alone."""
    day = datetime.fromtimestamp(created, UTC)
    return f"{IMAGES}/{day:%Y/%m/%d/%H%M%S}-{image_id}{suffix}"


def read_own_path(path: str) -> tuple[str, float] | None:
    """(id, time of making to the second) of a path that ``own_path`` made; ``None`` for any other."""
    match = OWN_NAME.fullmatch(path)
    if match is None:
        return None
    try:
        return match[7], datetime(*(int(part) for part in match.groups()[:6]), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
    except ValueError:  # the 31st of February
        return None


def trash_path(image_id: str, path: str) -> str:
    return f"{TRASH}/{image_id}{PurePosixPath(path).suffix.lower()}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, also when the process or the machine dies in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path) -> None:
    """Also to another disk: ``images`` may be a link to one. Raises ``OSError``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def is_picture(file: Path) -> bool:
    """A link put in a picture's place is none: it could lead anywhere."""
    return file.is_file() and not file.is_symlink()


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every picture file under ``folder``/images: its path relative to ``folder``, and its stat.

    Links and hidden files are left out; what cannot be listed is passed over.
    """
    waiting = [folder / IMAGES]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False) and _is_named_like_one(entry.name):
                    yield Path(entry.path).relative_to(folder).as_posix(), entry.stat(follow_symlinks=False)
            except OSError:  # gone since it was listed
                continue


def _is_named_like_one(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def remove_unfinished(folder: Path, before: float) -> None:
    """Remove what writers that died left beside their pictures, last touched before that time (seconds since 1970)."""
    for file in (folder / IMAGES).rglob(".*.part"):
        try:
            if UNFINISHED.fullmatch(file.name) and file.lstat().st_mtime < before:
                file.unlink()
        except OSError:  # gone since it was listed, or not ours to remove
            continue
