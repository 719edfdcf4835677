"""What there is to know of each model, for whoever chooses one."""

from typing import Any, Literal

from illustrious.catalog.determine import unfit
from illustrious.catalog.families import Family
from illustrious.catalog.hashes import Hashes
from illustrious.catalog.identity import Base
from illustrious.catalog.kinds import Kind
from illustrious.catalog.library import Entry, Library
from illustrious.catalog.prediction import Prediction, Sure
from illustrious.catalog.profiles import Profile, profile
from illustrious.types import Noun

Adapter = Literal["lora", "embedding", "vae", "controlnet", "upscaler"]

ADAPTERS: tuple[Adapter, ...] = ("lora", "embedding", "vae", "controlnet", "upscaler")

CAPABILITIES: dict[Kind, tuple[str, ...]] = {
    "checkpoint": ("text-to-image", "image-to-image", "inpainting"),
    "lora": ("adapting",),
    "embedding": ("prompting",),
    "vae": ("decoding",),
    "controlnet": ("guiding",),
    "upscaler": ("upscaling",),
}


class Card(Noun):
    """A model. ``id`` is what requests call it, ``name`` that without its folder.

    ``backend`` is what serves it and ``device`` where, once it is in memory; ``loaded`` ``None``: its worker does not
    tell. ``default``: used where a request names none. ``problem``: why it cannot be used, with the remedy.
    """

    id: str
    name: str
    backend: str | None = None
    device: str | None = None
    capabilities: tuple[str, ...] = ()
    loaded: bool | None = None
    default: bool = False
    note: str | None = None
    problem: str | None = None


class FileCard(Card):
    """One of a file or folder. ``hash`` is the web UI's short one, ``sha256`` the whole file's, both where they are
    known. ``base`` and ``family`` are its own or those of the checkpoints it goes with; ``sure`` how sure the family
    is. ``triggers`` are words that call it."""

    hash: str | None = None
    sha256: str | None = None
    base: Base | None = None
    family: Family | None = None
    sure: Sure | None = None
    prediction: Prediction | None = None
    title: str | None = None
    author: str | None = None
    licence: str | None = None
    triggers: tuple[str, ...] = ()


class CheckpointCard(FileCard):
    """``width`` and ``height`` are the native size in pixels, ``profile`` what it is drawn with where nobody says
    otherwise; ``None`` for what cannot be drawn with."""

    width: int | None = None
    height: int | None = None
    profile: Profile | None = None


def checkpoints(library: Library, hashes: Hashes) -> list[CheckpointCard]:
    """All in the folders, and the default wherever it is."""
    default = library.default()
    entries = library.entries("checkpoint")
    cards = []
    for entry in entries if default in entries else (default, *entries):
        known = _known(entry, library, hashes)
        if problem := unfit(entry, library.identity(entry)):
            known |= {"capabilities": (), "problem": problem}
        else:
            best = profile(library.identity(entry))
            width, height = best.buckets[0] if best.buckets else (None, None)
            known |= {"profile": best, "width": width, "height": height}
        cards.append(CheckpointCard(**known, default=entry == default))
    return cards


def adapters(kind: Adapter, library: Library, hashes: Hashes) -> list[FileCard]:
    """All of a kind that goes with a checkpoint."""
    return [FileCard(**_known(entry, library, hashes)) for entry in library.entries(kind)]


def _known(entry: Entry, library: Library, hashes: Hashes) -> dict[str, Any]:
    identity, found = library.identity(entry), hashes.known(entry)
    said = ("base", "family", "prediction", "title", "author", "licence", "triggers", "problem")
    return {
        "id": entry.name,
        "name": entry.name.rpartition("/")[2],
        "capabilities": CAPABILITIES[entry.kind],
        "hash": hashes.short(entry),
        "sha256": found.sha256 if found else None,
        "sure": identity.sure if identity.family else None,
        **{name: getattr(identity, name) for name in said},
    }
