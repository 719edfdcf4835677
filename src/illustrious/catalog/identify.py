"""What lies at a path: kind, base, family, prediction, native size, in milliseconds and without torch.

Families differ in nothing but words, so how sure that is, is part of the answer.
"""

from pathlib import Path

from illustrious.catalog.folder import of_folder
from illustrious.catalog.identity import Identity
from illustrious.catalog.safetensors_header import read_header
from illustrious.catalog.single_file import of_header
from illustrious.errors import Unavailable

PICKLED = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
"""Opening such a file may run whatever code it holds, so none is opened here."""

LARGEST_EMBEDDING = 2_000_000
"""Bytes. A pickled file tells nothing of itself; embeddings have kilobytes, upscalers megabytes."""


def identify(path: Path) -> Identity:
    """Never raises: what is damaged or not there says so in ``problem``."""
    if readable(str(path)) != str(path):
        return Identity(problem=f"The name {readable(str(path))} is not UTF-8 and cannot be written down. Rename it.")
    try:
        if path.is_dir():
            return of_folder(path)
        if path.suffix.lower() == ".safetensors":
            return of_header(read_header(path), path)
        return _of_suffix(path)
    except Unavailable as error:
        return Identity(problem=str(error))
    except OSError as error:
        return Identity(problem=f"{path} cannot be read ({error.strerror}). Check the file and its permissions.")


def readable(name: str) -> str:
    """The name of a file with a question mark for what is no UTF-8, so that it can be written down anywhere."""
    return name.encode("utf-8", "replace").decode()


def _of_suffix(path: Path) -> Identity:
    match path.suffix.lower():
        case ".txt":
            return Identity(kind="wildcard")
        case ".ckpt":
            return Identity(
                kind="checkpoint",
                problem=f"{path.name} is a pickled checkpoint, which could run any code when opened. "
                "Use the .safetensors file of the same model, or convert it.",
            )
        case ".pth":
            return Identity(kind="upscaler")
        case ".pt" | ".bin":
            return Identity(kind="embedding" if path.stat().st_size <= LARGEST_EMBEDDING else "upscaler")
        case _:
            return Identity()
