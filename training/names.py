"""What the captioner calls an icon, and what kind of thing that is.

Icon sets draw one thing under several labels: an animal and its face, a person as a man and as a woman, a heart in nine
colours, a clock at every half hour. What cannot be told apart at 64 pixels, or is told by colour, has one name.
"""

import re
from collections.abc import Collection

from training.concepts import MASS, NATURE_COLOUR_ONLY, NOUNS

PLACE = "a place"
"""Most of these are whole pictures."""

KINDS: tuple[tuple[str, int, range], ...] = (
    ("a face", 0, range(11)),
    ("a figure", 0, range(11, 12)),
    ("a face", 0, range(12, 14)),
    ("a symbol", 0, range(14, 16)),
    ("a part of the body", 1, range(16, 23)),
    ("a person", 1, range(23, 34)),
    ("an animal", 3, range(34, 40)),
    ("a plant", 3, range(40, 42)),
    ("something to eat", 4, range(42, 47)),
    ("something to drink", 4, range(47, 48)),
    (PLACE, 5, range(49, 51)),
    ("a building", 5, range(51, 53)),
    (PLACE, 5, range(53, 54)),
    ("a vehicle", 5, range(54, 57)),
    ("something in the sky", 5, range(59, 60)),
    ("something to wear", 7, range(65, 66)),
    ("a musical instrument", 7, range(68, 69)),
    ("a symbol", 8, range(84, 97)),
)
"""Kind, emojibase's group, its subgroups."""

OBJECT = "an object"
"""The kind of whatever is in none of these."""

SCENE = "a scene"
"""The kind of what ``training.scenes`` draws."""

OWN_COLOUR_KINDS = frozenset({"a face", "a person", PLACE, SCENE})
"""Kinds that nobody calls by a colour."""

COLOUR = r"(?:red|orange|yellow|green|blue|light blue|purple|pink|brown|black|grey|white)"

ANIMALS_WITH_FACES = frozenset({"monkey", "dog", "cat", "tiger", "horse", "cow", "pig", "mouse", "rabbit", "dragon"})


def kind(group: int, subgroup: int) -> str:
    """
    >>> kind(3, 34), kind(7, 78)
    ('an animal', 'an object')
    """
    return next((word for word, of, parts in KINDS if of == group and subgroup in parts), OBJECT)


def name(label: str, labels: Collection[str]) -> str | None:
    """The noun for an icon; none for a person told from others by hair alone. ``labels``: all there are.

    >>> name("woman running: facing right", {"person running"}), name("green apple", ()), name("tiger face", ())
    ('person running', 'apple', 'tiger')
    """
    label = label.removesuffix(": facing right")
    if found := re.fullmatch(r"(family|kiss|couple with heart)(: .*)?", label):
        return "kissing couple" if found[1] == "kiss" else found[1]
    if re.fullmatch(r"\w+( o’clock|-thirty)", label):
        return "clock"
    if found := re.fullmatch(rf"{COLOUR} (heart|apple|circle|book|cat)", label):
        return found[1]
    if label.removesuffix(" face") in ANIMALS_WITH_FACES:
        return label.removesuffix(" face")
    if label in NOUNS:
        return NOUNS[label][0]
    if found := re.fullmatch(r"(person|man|woman): (.*)", label):
        person, what = found.groups()
        if person == "person":
            return None
        return f"bald {person}" if what == "bald" else f"{person} with {'a beard' if what == 'beard' else what}"
    if found := re.fullmatch(r"(deaf |pregnant |)(?:man|men|woman|women)( .+|)", label):
        before, after = found.groups()
        for same in (f"{before}person{after}", f"{before}people{after}", after.strip()):
            if before + after and same in labels:
                return name(same, labels)
    return label


UNCOUNTED = MASS | frozenset(
    {
        "bacon", "broccoli", "butter", "fog", "garlic", "ice", "leafy green", "popcorn", "salt",
        "soap", "spaghetti", "sushi", "wood", "cooked rice", "curry rice", "shaved ice", "Santa Claus", "Mrs. Claus",
        "Mx Claus", "bowling", "tennis", "badminton", "ping pong", "ice hockey", "field hockey", "lacrosse",
        "mount fuji",
    }
)  # fmt: skip
"""What has no article and no plural."""


def counted(noun: str) -> bool:
    """
    >>> counted("bus"), counted("compass"), counted("eyes"), counted("glass of milk"), counted("popcorn")
    (True, True, False, True, False)
    """
    head = noun.partition(" with ")[0].partition(" of ")[0]
    several = head.endswith("s") and not head.endswith(("ss", "us", "is"))
    return noun not in UNCOUNTED and not several


def coloured(label: str, kind: str) -> bool:
    """Whether such a thing may be painted in another colour and is then called by it."""
    return label not in NATURE_COLOUR_ONLY and kind not in OWN_COLOUR_KINDS
