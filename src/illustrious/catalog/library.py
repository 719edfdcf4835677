"""All models in their folders, by the names that requests call them.

A name is looked up among those that were found; it is never made into a path. It may be given with or without suffix,
with or without sub-folder, in any case, with AUTOMATIC1111's ``[hash]`` behind it, or as a hash alone where that is
known. Folders are read when somebody asks, and again when one of them has changed since; files are opened only to be
identified. No torch and no database: the same class serves the server and the engines' processes.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from illustrious.catalog.identities import Identities
from illustrious.catalog.identity import Identity
from illustrious.catalog.kinds import KINDS, OURS, SUFFIXES, TITLES, Kind
from illustrious.catalog.scan import Scan
from illustrious.errors import InvalidRequest

IN_BRACKETS = re.compile(r"\s*\[([0-9a-f]{6,64})\]$", re.IGNORECASE)
"""The hash in the web UI's title of a model, ``name.safetensors [31e35c80fc]``."""

HASH = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)

MANY = 8
"""How many names a message may list."""


@dataclass(frozen=True)
class Entry:
    """A model. ``name`` is its path below the folder of its kind, with ``/`` and without suffix."""

    kind: Kind
    name: str
    path: Path


STARTER = Entry("checkpoint", "sdxl-starter", Path(str(files("illustrious") / "data" / "starter")))
"""Part of the package: what is drawn with when there is nothing else."""

SHIPPED_LORAS = Path(str(files("illustrious") / "data" / "loras"))

STARTER_LORAS = tuple(Entry("lora", file.stem, file) for file in sorted(SHIPPED_LORAS.glob("*.safetensors")))
"""Part of the package: what changes how the starter draws."""


def no_hashes(entry: Entry) -> tuple[str, ...]:
    return ()


class Library:
    """The models in ``roots``, of which earlier ones go first. ``default`` is the image model that was configured, a
    name or a path; ``builtin`` is what there is when there is nothing else, ``others`` what goes with it. ``hashes``
    tells those of an entry, as far as they are known without reading the file; ``identities`` what files are."""

    def __init__(
        self,
        roots: Iterable[str | Path],
        default: str | None = None,
        builtin: Entry = STARTER,
        hashes: Callable[[Entry], Iterable[str]] = no_hashes,
        others: tuple[Entry, ...] = STARTER_LORAS,
        identities: Identities | None = None,
    ) -> None:
        self.roots = tuple(Path(root).expanduser() for root in roots)
        self._configured = default
        self._builtin = builtin
        self._others = others
        self._hashes = hashes
        self.identities = identities or Identities()
        self._shelves: dict[Kind, _Shelf] = {}

    def entries(self, kind: Kind) -> tuple[Entry, ...]:
        """All of a kind, in the order of roots and then of names; of the image models the built-in one is the last."""
        return self._shelf(kind).entries

    def problems(self) -> tuple[str, ...]:
        """What keeps models from being found, with the remedy: folders that are not there or cannot be read, and
        damaged files of which nobody can tell what they are."""
        gone = [root for root in self.roots[1:] if not root.is_dir()]  # the first is made when something is put there
        found = [problem for kind in KINDS for problem in self._shelf(kind).scan.problems]
        return (*(f"There is no folder {root}. Correct --models-dir." for root in gone), *dict.fromkeys(found))

    def find(self, kind: Kind, name: str, field: str | None = None, also: Iterable[str] = ()) -> Entry:
        """The one called so. Raises ``InvalidRequest``, for this field, when none or several are.

        ``also`` are names of what is no file and may be named in its place: the message looks there, too.
        """
        shelf = self._shelf(kind)
        found = shelf.called(IN_BRACKETS.sub("", name)) or self._hashed(shelf.entries, name)
        if not found:
            raise self._missing(kind, name, [*(entry.name for entry in shelf.entries), *also], field)
        if len(found) > 1:
            raise _ambiguous(kind, name, found, field)
        return found[0]

    def checkpoint(self, name: str | None = None, field: str = "model") -> Entry:
        """The image model called so; without a name, the default. Raises ``InvalidRequest``."""
        return self.default() if name is None else self.find("checkpoint", name, field)

    def default(self) -> Entry:
        """The configured image model, else the first in the folders that can be drawn with, else the built-in one.

        A configured one that is not there is returned all the same: the engine says what is wrong with it.
        """
        if self._configured is not None:
            return self._as_configured(self._configured)
        found = self.entries("checkpoint")
        return next((entry for entry in found if self.identity(entry).draws), found[0])

    def _as_configured(self, configured: str) -> Entry:
        path = Path(configured).expanduser()
        found = self.entries("checkpoint")
        if path.exists():
            here = next((entry for entry in found if entry.path.exists() and entry.path.samefile(path)), None)
            return here or Entry("checkpoint", _without_suffix("checkpoint", path.name), path)
        try:
            return self.find("checkpoint", configured)
        except InvalidRequest:
            return Entry("checkpoint", _without_suffix("checkpoint", path.name), path)

    def embeddings(self) -> dict[str, Path]:
        """By the word that calls them in a prompt: the name of the file, whatever its folder."""
        words: dict[str, Path] = {}
        for entry in self.entries("embedding"):
            words.setdefault(entry.name.rpartition("/")[2], entry.path)
        return words

    def wildcards(self) -> dict[str, Path]:
        """Files of lines to draw from, by their names with folder."""
        return {entry.name: entry.path for entry in self.entries("wildcard")}

    def identity(self, entry: Entry) -> Identity:
        """What the file says it is; read again when it was replaced. Never raises."""
        if entry == self._builtin:
            return self.identities.of(entry.path).model_copy(update={"family": "starter", "sure": "certain"})
        return self.identities.of(entry.path)

    def _shelf(self, kind: Kind) -> "_Shelf":
        shelf = self._shelves.get(kind)
        if shelf is None or not shelf.scan.fresh:
            scan = Scan(kind, self.roots, self.identities.of)
            entries = _named(scan)
            if kind == self._builtin.kind:
                entries += self._configured_elsewhere(entries)
            shelf = _Shelf(scan, entries, (self._builtin, *self._others))
            self._shelves[kind] = shelf
            self.identities.keep()
        return shelf

    def _configured_elsewhere(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """The configured image model where it lies in none of the folders: requests call it like the others."""
        if self._configured is None:
            return ()
        path = Path(self._configured).expanduser()
        if not path.exists() or any(entry.path.exists() and entry.path.samefile(path) for entry in entries):
            return ()
        name = _without_suffix("checkpoint", path.name)
        if name in {entry.name for entry in entries}:
            name = f"{path.absolute().parent.name}/{name}"
        return (Entry("checkpoint", name, path),)

    def _hashed(self, entries: Iterable[Entry], name: str) -> list[Entry]:
        """The first of this hash: others are alike to the last byte."""
        bracketed = IN_BRACKETS.search(name)
        wanted = (bracketed[1] if bracketed else name).lower()
        if not HASH.fullmatch(wanted):
            return []
        return [entry for entry in entries if any(known.startswith(wanted) for known in self._hashes(entry))][:1]

    def _missing(self, kind: Kind, name: str, known: Iterable[str], field: str | None) -> InvalidRequest:
        names = {_key(other): other for other in known}
        spellings = {**{key.rpartition("/")[2]: name for key, name in names.items()}, **names}
        near = [spellings[key] for key in get_close_matches(_key(_without_suffix(kind, name)), spellings, cutoff=0.5)]
        if near:
            hint = f"Did you mean {_listed(dict.fromkeys(near))}?"
        else:
            there = f"There are {', '.join(names.values())}. " if 0 < len(names) <= MANY else ""
            hint = f"{there}Its file goes into {self.roots[0] / OURS[kind] if self.roots else OURS[kind]}."
        return InvalidRequest(f"There is no {TITLES[kind]} “{name}”. {hint}", field=field)


class _Shelf:
    """Everything of one kind by its spellings: as it is, in any case, without folder; each with and without suffix."""

    def __init__(self, scan: Scan, entries: tuple[Entry, ...], builtins: tuple[Entry, ...]) -> None:
        self.scan = scan
        names = {entry.name for entry in entries}
        ours = (entry for entry in builtins if entry.kind == scan.kind and entry.name not in names)
        self.entries = (*entries, *ours)
        self.spellings: tuple[_Spellings, _Spellings, _Spellings] = ({}, {}, {})
        for entry in self.entries:
            for spelling in {entry.name, f"{entry.name.removesuffix(entry.path.suffix)}{entry.path.suffix}"}:
                key = _key(spelling)
                for table, word in zip(self.spellings, (spelling, key, key.rpartition("/")[2]), strict=True):
                    table.setdefault(word, []).append(entry)

    def called(self, name: str) -> list[Entry]:
        """By the most literal reading of the name that fits any."""
        key = _key(name)
        exact, any_case, any_folder = self.spellings
        return exact.get(name) or any_case.get(key) or any_folder.get(key) or []


_Spellings = dict[str, list[Entry]]


def _named(scan: Scan) -> tuple[Entry, ...]:
    """Of files that differ in suffix alone, the kind's first has the plain name, the others keep their suffix in it."""
    suffixes = SUFFIXES[scan.kind]
    plain: dict[str, str] = {}
    for found in scan.found:
        name, rank = _without_suffix(scan.kind, found), _rank(found, suffixes)
        if name not in plain or rank < _rank(plain[name], suffixes):
            plain[name] = found
    entries = []
    for found, path in scan.found.items():
        name = _without_suffix(scan.kind, found)
        entries.append(Entry(scan.kind, name if plain[name] == found else found, path))
    return tuple(entries)


def _rank(found: str, suffixes: tuple[str, ...]) -> int:
    return next((place for place, suffix in enumerate(suffixes) if found.lower().endswith(suffix)), -1)


def _without_suffix(kind: Kind, name: str) -> str:
    suffix = next((suffix for suffix in SUFFIXES[kind] if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _key(name: str) -> str:
    """What the spellings of a name have in common."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def _ambiguous(kind: Kind, name: str, found: Iterable[Entry], field: str | None) -> InvalidRequest:
    names = list(dict.fromkeys(entry.name for entry in found))
    return InvalidRequest(
        f"“{name}” may be any of several models of this kind ({TITLES[kind]}): say {_listed(names[:MANY])}.",
        field=field,
    )


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"“{name}”" for name in names)
