"""A prompt's tokens, however many, in chunks of what a text encoder reads at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from illustrious.images.diffusion.prompt import Break

BACKTRACK = 20
"""How far behind the end of a full chunk a comma may be for the chunk to end there (the web UI's default)."""


@dataclass(frozen=True)
class Vector:
    """In place of a token: one vector of a textual inversion embedding."""

    name: str
    index: int


Token = int | Vector


@dataclass(frozen=True)
class Unit:
    """Tokens that stay together: one token, or the vectors of one embedding. A chunk must have room for them."""

    tokens: tuple[Token, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Chunk:
    """Tokens without start, end and padding, and the weight of each."""

    tokens: tuple[Token, ...] = ()
    weights: tuple[float, ...] = ()


class Names:
    """Names as the tokens they are read as. Where several fit, the longest is meant."""

    def __init__(self, tokens: Mapping[str, Sequence[int]]) -> None:
        self._by_first: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for name, sequence in sorted(tokens.items()):
            if sequence:
                self._by_first.setdefault(sequence[0], []).append((tuple(sequence), name))
        for names in self._by_first.values():
            names.sort(key=lambda entry: -len(entry[0]))

    def at(self, tokens: Sequence[int], place: int) -> tuple[str | None, int]:
        """The name that stands at this place, and how many tokens it takes."""
        for sequence, name in self._by_first.get(tokens[place], ()):
            if tuple(tokens[place : place + len(sequence)]) == sequence:
                return name, len(sequence)
        return None, 0


def chunks(units: Iterable[Unit | Break], room: int, comma: int | None) -> tuple[Chunk, ...]:
    """One chunk or more, none with more than ``room`` tokens. ``comma`` is that token's id.

    The comma rule of AUTOMATIC1111's web UI: when a chunk is full, another token is coming that is no comma, and there
    is a comma among the chunk's last ``BACKTRACK`` tokens, then what follows the last comma moves to the next chunk. A
    break ends a chunk, even an empty one; only after the last break there need be nothing.
    """
    done: list[Chunk] = []
    tokens: list[Token] = []
    weights: list[float] = []
    last_comma: int | None = None

    def close(end: int) -> None:
        nonlocal last_comma
        done.append(Chunk(tuple(tokens[:end]), tuple(weights[:end])))
        del tokens[:end], weights[:end]
        last_comma = None

    for unit in units:
        if isinstance(unit, Break):
            close(len(tokens))
            continue
        if unit.tokens == (comma,):
            last_comma = len(tokens)
        elif len(tokens) == room and last_comma is not None and room - last_comma <= BACKTRACK:
            close(last_comma + 1)
        if len(tokens) + len(unit.tokens) > room:
            close(len(tokens))
            if unit.tokens == (comma,):
                last_comma = None
        tokens += unit.tokens
        weights += [unit.weight] * len(unit.tokens)
    if tokens or not done:
        close(len(tokens))
    return tuple(done)
