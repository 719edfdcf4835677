r"""Wildcards and variants, drawn from a seed. The syntax is that of the Dynamic Prompts extension of the web UI.

- ``__name__``: a line of the file ``name.txt``; ``__folder/name__`` of one in a folder, where ``name`` alone will do if
  there is no other; with ``*``, of all that match.
- ``{a|b|c}``: one of the options, ``{0.5::a|b}`` with weights (1 where none is given). Braces without ``|`` are text.
- ``{2$$a|b|c}``: two different ones, ``, `` between them; ``{1-3$$…}`` one to three; ``{2$$ and $$a|b|c}`` with another
  separator. ``{2$$__name__}`` draws from the file's lines.
- A backslash before a brace or a bar makes it text.

Options and lines may hold all of this again. Nothing is drawn for options that were not taken.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from illustrious.errors import InvalidRequest, StorageFailed

DEPTH = 20
"""How deep options and lines may stand in one another."""

DRAWS = 10_000
"""How much one text may draw: lines that name each other could grow without end."""


class Wildcards(Protocol):
    """Lines by name."""

    def names(self) -> Iterable[str]: ...

    def lines(self, name: str) -> Sequence[str]: ...


class WildcardFiles:
    """Text files by name, one line an option. A name is looked up among these; it is never made into a path."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def names(self) -> Iterable[str]:
        return self._files.keys()

    def lines(self, name: str) -> Sequence[str]:
        """Without empty lines and those that begin with ``#``. Raises ``StorageFailed``."""
        try:
            text = self._files[name].read_text("utf-8-sig", errors="replace")
        except OSError as error:
            raise StorageFailed(
                f"The wildcard file {self._files[name]} cannot be read ({error}). Mend its permissions, or remove it."
            ) from error
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def draw(text: str, seed: str, wildcards: Wildcards) -> tuple[str, tuple[str, ...]]:
    """The text with everything drawn, and warnings.

    The same seed, text and lines give the same on every platform and in every version of Python: only
    ``Random.random`` of a text seed is used, which Python promises to keep. Raises ``InvalidRequest``.
    """
    drawing = _Drawing(seed, wildcards)
    return drawing.text(_parse(text), 0), tuple(dict.fromkeys(drawing.warnings))


@dataclass(frozen=True)
class _Wildcard:
    name: str


@dataclass(frozen=True)
class _Option:
    parts: "_Parts"
    weight: float = 1.0


@dataclass(frozen=True)
class _Variant:
    """From ``low`` to ``high`` of the options (unset: all of them); ``low`` unset: one."""

    options: tuple[_Option, ...]
    low: int | None = None
    high: int | None = None
    separator: str = ", "


_Parts = tuple[str | _Wildcard | _Variant, ...]

_SYMBOL = re.compile(r"\\.|[{}|\[\]]|__(?P<name>(?:[^\W_]|\*)[\w\-./* ]*?)__|[^\\{}|\[\]_]+|[\\_]", re.DOTALL)
_BOUNDS = re.compile(r"\s*(?P<low>\d{1,3})?(?P<to>-)?(?P<high>\d{1,3})?\s*\$\$(?:(?P<separator>.*?)\$\$)?", re.DOTALL)
_WEIGHT = re.compile(r"\s*(?P<weight>\d+\.?\d*|\.\d+)::", re.ASCII)


@dataclass(frozen=True)
class _Bracket:
    """An open brace or square bracket: where it and the bars directly in it stand among the parts read so far."""

    start: int
    bars: list[int] = field(default_factory=list)


def _parse(text: str) -> _Parts:
    parts: list[str | _Wildcard | _Variant] = []
    opened: list[_Bracket] = []
    for found in _SYMBOL.finditer(text):
        symbol = found[0]
        if symbol in ("{", "["):
            opened.append(_Bracket(len(parts)))
        elif symbol == "|" and opened:
            opened[-1].bars.append(len(parts))
        elif symbol == "]" and opened and parts[opened[-1].start] == "[":
            opened.pop()
        elif symbol == "}" and (brace := _pop_brace(parts, opened)) is not None:
            variant = _variant(parts, brace)
            if variant is not None:
                parts[brace.start :] = [variant]
                continue
        parts.append(_Wildcard(found["name"]) if found["name"] is not None else symbol)
    return tuple(parts)


def _pop_brace(parts: list[str | _Wildcard | _Variant], opened: list[_Bracket]) -> _Bracket | None:
    """The innermost open brace. Square brackets in it that never closed are text, and their bars are the brace's."""
    bars: list[int] = []
    while opened:
        bracket = opened.pop()
        bars += bracket.bars
        if parts[bracket.start] == "{":
            return _Bracket(bracket.start, sorted(bars))
    return None


def _variant(parts: list[str | _Wildcard | _Variant], brace: _Bracket) -> _Variant | None:
    ends = [*brace.bars, len(parts)]
    starts = [brace.start, *brace.bars]
    fields = [tuple(parts[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
    head, rest = _leading_text(fields[0])
    bounds = _BOUNDS.match(head)
    if bounds is None:
        return _Variant(tuple(map(_option, fields))) if brace.bars else None
    options = (_option((head[bounds.end() :], *rest)), *map(_option, fields[1:]))
    low, high = bounds["low"], bounds["high"]
    if bounds["to"] is None:
        if low is None or high is not None:
            return _Variant(tuple(map(_option, fields))) if brace.bars else None
        high = low
    separator = bounds["separator"] if bounds["separator"] is not None else ", "
    return _Variant(options, int(low or 1), int(high) if high is not None else None, separator)


def _leading_text(parts: _Parts) -> tuple[str, _Parts]:
    count = next((place for place, part in enumerate(parts) if not isinstance(part, str)), len(parts))
    return "".join(part for part in parts[:count] if isinstance(part, str)), parts[count:]


def _option(parts: _Parts) -> _Option:
    head, rest = _leading_text(parts)
    weight = _WEIGHT.match(head)
    if weight is None:
        return _Option((head, *rest))
    return _Option((head[weight.end() :], *rest), float(weight["weight"]))


class _Drawing:
    def __init__(self, seed: str, wildcards: Wildcards) -> None:
        self.warnings: list[str] = []
        self._random = random.Random(seed)
        self._wildcards = wildcards
        self._draws = 0
        self._read: dict[str, list[_Option]] = {}

    def text(self, parts: _Parts, depth: int) -> str:
        pieces = []
        for part in parts:
            if isinstance(part, str):
                pieces.append(part)
            elif isinstance(part, _Wildcard):
                pieces.append(self._wildcard(part, depth))
            else:
                pieces.append(self._variant(part, depth))
        return "".join(pieces)

    def _wildcard(self, wildcard: _Wildcard, depth: int) -> str:
        options = self._options(wildcard)
        return self._chosen(options, depth) if options else f"__{wildcard.name}__"

    def _variant(self, variant: _Variant, depth: int) -> str:
        options: Sequence[_Option] = variant.options
        if variant.low is None:
            return self._chosen(options, depth)
        alone = [part for part in options[0].parts if part != ""] if len(options) == 1 else []
        if len(alone) == 1 and isinstance(alone[0], _Wildcard):
            options = self._options(alone[0]) or options
        low, high = sorted((variant.low, len(options) if variant.high is None else variant.high))
        count = low + self._below(high - low + 1)
        chosen: list[str] = []
        left: list[_Option] = []
        for _ in range(count):
            left = left or list(options)
            option = left.pop(self._index(left))
            chosen.append(self._inner(option, depth))
        return variant.separator.join(chosen)

    def _options(self, wildcard: _Wildcard) -> list[_Option]:
        """The lines of every wildcard of this name."""
        if wildcard.name not in self._read:
            self._read[wildcard.name] = self._lines(wildcard.name.strip())
        return self._read[wildcard.name]

    def _lines(self, name: str) -> list[_Option]:
        names = sorted(self._wildcards.names())
        matching = _matching(name, names)
        lines = [line for known in matching for line in self._wildcards.lines(known)]
        if not lines:
            self.warnings.append(_unknown(name, names, bool(matching)))
        return [_option(_parse(line)) for line in lines]

    def _chosen(self, options: Sequence[_Option], depth: int) -> str:
        return self._inner(options[self._index(options)], depth)

    def _inner(self, option: _Option, depth: int) -> str:
        self._draws += 1
        if self._draws > DRAWS:
            raise InvalidRequest(
                f"The prompt's wildcards grow without end: more than {DRAWS:,} were drawn. "
                "Look for lines that name their own file.",
                field="prompt",
            )
        if depth == DEPTH:
            self.warnings.append(
                f"Wildcards stand more than {DEPTH} deep in one another; what is deeper was left out. "
                "Look for lines that name their own file."
            )
            return ""
        return self.text(option.parts, depth + 1)

    def _index(self, options: Sequence[_Option]) -> int:
        """A place among the options, as likely as its weight."""
        total = sum(option.weight for option in options)
        if total <= 0:
            return self._below(len(options))
        point = self._random.random() * total
        for place, option in enumerate(options):
            point -= option.weight
            if point < 0:
                return place
        return max(place for place, option in enumerate(options) if option.weight > 0)

    def _below(self, count: int) -> int:
        return int(self._random.random() * count)


def _matching(name: str, names: Sequence[str]) -> list[str]:
    """All that a name with ``*`` fits; else the one of this name, whatever its case, or the last part of its path."""
    if "*" in name:
        return [known for known in names if fnmatchcase(known, name)]
    folded = name.casefold()
    return (
        [known for known in names if known == name]
        or [known for known in names if known.casefold() == folded]
        or [known for known in names if known.casefold().rpartition("/")[2] == folded]
    )


def _unknown(name: str, names: Sequence[str], is_empty: bool) -> str:
    if is_empty:
        return f"The wildcard __{name}__ has no lines, so it was left as text. Write some into its file."
    near = get_close_matches(name, names, n=3)
    hint = (
        f"Did you mean {' or '.join(f'__{other}__' for other in near)}?" if near else f"Its lines go into {name}.txt."
    )
    return f"There is no wildcard __{name}__, so it was left as text. {hint}"
