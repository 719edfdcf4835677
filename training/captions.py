"""Captions as a judge reads them: which words they have, and what is nearly the same and not true."""

import re
from functools import cache

import numpy as np

from training.colours import COLOURS
from training.concepts import STARTER, nouns, plural

ARTICLES = frozenset({"a", "an", "the"})


def words(caption: str) -> tuple[str, ...]:
    """In small letters, without articles, nouns in the singular: that they are two or three is said by a word.

    >>> words("A T-Rex on a light blue background"), words("two cups of coffee")
    (('t-rex', 'on', 'light', 'blue', 'background'), ('two', 'cup', 'of', 'coffee'))
    """
    found = re.findall(r"[\w-]+", caption.lower())
    return tuple(_singular().get(word, word) for word in found if word not in ARTICLES)


@cache
def _singular() -> dict[str, str]:
    of_both = (zip(plural(noun).lower().split(), noun.lower().split(), strict=False) for noun in _nouns())
    return {many: one for pairs in of_both for many, one in pairs if many != one}


def _nouns() -> tuple[str, ...]:
    return tuple(noun for label in STARTER for noun in nouns(label))


ALTERNATIVES: tuple[tuple[str, ...], ...] = (
    tuple(COLOURS),
    ("two", "three", "four"),
    ("small", "tiny", "big"),
    ("left of", "right of"),
    ("above", "below"),
    ("in a forest", "on the beach", "in the snow", "in the night sky", "in space", "under water", "in a meadow"),
    ("at sunset", "at dawn", "by day", "at night"),
    _nouns(),
    tuple(plural(noun) for noun in _nouns()),
)
"""Phrases that stand in each other's place. What has one of a group does not have another, a few nouns left aside."""


def altered(caption: str, random: np.random.Generator) -> str:
    """The caption with one phrase exchanged for another of its group; the caption itself, where it has none.

    >>> altered("a purple owl", np.random.default_rng(0))
    'a purple rocket'
    """
    found = list(_phrases().finditer(caption))
    if not found:
        return caption
    match = found[int(random.integers(len(found)))]
    group = next(group for group in ALTERNATIVES if match[0] in group)
    others = [phrase for phrase in group if phrase != match[0]]
    return caption[: match.start()] + others[int(random.integers(len(others)))] + caption[match.end() :]


@cache
def _phrases() -> re.Pattern[str]:
    """Any of them, the longest that fits."""
    longest_first = sorted({phrase for group in ALTERNATIVES for phrase in group}, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
