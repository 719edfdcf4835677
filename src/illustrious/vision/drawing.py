"""What the captioner sees in a drawing, and how that is said: with its probability, or plainly unsure."""

from collections.abc import Sequence

from illustrious.types import Noun

PLAIN_SURE = 0.6
"""The probability from which on a colour, a ground, a kind or a number is said."""

SECOND = 0.2
"""The probability from which on the second of two different things is said; what is surely there has half of all."""

WORTH_NAMING = 0.1
"""The probability from which on an alternative is named."""

ALTERNATIVES = 3

SEVERAL = "several colours"
"""The word for a ground that is not of one colour."""


class Thing(Noun):
    """What a drawing may be of. ``counted``: it has an article and a plural. ``coloured``: it is called by its colour.
    ``scene``: it fills the picture and has no ground."""

    one: str
    many: str
    kind: str
    counted: bool = True
    coloured: bool = True
    scene: bool = False


class Guess(Noun):
    """``probability`` from 0 to 1."""

    thing: Thing
    probability: float


class Word(Noun):
    word: str
    probability: float


class Drawing(Noun):
    """``drawn``: the probability that the picture is a drawing of something the captioner knows. ``guesses``: likeliest
    first. ``kind``: of what thing at all. ``colour``: of the thing. ``amount``: ``one`` to ``four`` of a kind, or
    ``different``. ``sure``: the best guess, or for two different things the two best together, is likely enough to be
    said outright: those that ``named`` gives."""

    drawn: float
    guesses: tuple[Guess, ...]
    kind: Word
    colour: Word
    ground: Word
    amount: Word
    sure: bool


def named(guesses: Sequence[Guess], amount: Word) -> tuple[Guess, ...]:
    """The things that may be said outright together: the likeliest, and another beside it only where the picture
    surely has different things and the second guess is no stopgap."""
    different = amount.word == "different" and amount.probability >= PLAIN_SURE
    return (guesses[0], *(guess for guess in guesses[1:2] if different and guess.probability >= SECOND))


def is_said(drawing: Drawing) -> bool:
    """Whether the thing is said outright."""
    return drawing.drawn >= 0.5 and drawing.sure


def described(drawing: Drawing) -> str:
    """What the picture is of, as far as the captioner knows."""
    if drawing.drawn < 0.5:
        return "It does not look like a drawing of anything that the captioner knows; it may be a photograph."
    if drawing.sure:
        things, probability = _things(drawing)
        return f"It looks like a drawing of {things}{_ground(drawing)} ({probability:.0%})."
    if _may_be_anything(drawing):
        return "It may be a photograph, or a drawing of something that the captioner does not know."
    options = [f"{with_article(guess.thing, guess.thing.one)} ({guess.probability:.0%})" for guess in _options(drawing)]
    perhaps = f" Perhaps {_or(options)}." if options else ""
    if drawing.kind.probability >= PLAIN_SURE:
        return f"It looks like a drawing of {drawing.kind.word}, but the captioner is unsure of which.{perhaps}"
    return f"It may be a drawing, but the captioner is unsure of what.{perhaps}"


def coloured(drawing: Drawing) -> str:
    """Which colours the thing and the ground have, as far as the captioner is sure; else nothing."""
    if drawing.drawn < 0.5 or _may_be_anything(drawing) or drawing.guesses[0].thing.scene:
        return ""
    said = []
    thing = drawing.guesses[0].thing
    if _has_colour(drawing):
        noun = thing.one if drawing.sure else "thing drawn"
        said.append(f"the {noun} is {drawing.colour.word} ({drawing.colour.probability:.0%})")
    if drawing.ground.probability >= PLAIN_SURE:
        said.append(f"the background is {drawing.ground.word} ({drawing.ground.probability:.0%})")
    sentence = ", ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def with_article(thing: Thing, words: str) -> str:
    """
    >>> owl = Thing(one="owl", many="owls", kind="an animal")
    >>> with_article(owl, "owl"), with_article(owl, "blue owl")
    ('an owl', 'a blue owl')
    """
    if not thing.counted:
        return words
    silent = ("uni", "ufo", "ewe", "euro", "one")
    vowel = words.startswith("hour") or (words[0].lower() in "aeiou" and not words.startswith(silent))
    return f"an {words}" if vowel else f"a {words}"


def _things(drawing: Drawing) -> tuple[str, float]:
    """The things by their words, and the probability that they are these."""
    said = named(drawing.guesses, drawing.amount)
    best = said[0]
    if len(said) == 2:
        words = " and ".join(with_article(guess.thing, guess.thing.one) for guess in said)
        return words, sum(guess.probability for guess in said)
    colour = f"{drawing.colour.word} " if _has_colour(drawing) else ""
    if drawing.amount.word in ("one", "different") or drawing.amount.probability < PLAIN_SURE or best.thing.scene:
        return with_article(best.thing, colour + best.thing.one), best.probability
    return f"{drawing.amount.word} {colour}{best.thing.many}", best.probability


def _has_colour(drawing: Drawing) -> bool:
    """Whether the thing's colour is sure. Of different things it would be that of either."""
    has_one = drawing.amount.word != "different" and drawing.guesses[0].thing.coloured
    return has_one and drawing.colour.probability >= PLAIN_SURE


def _options(drawing: Drawing) -> list[Guess]:
    return [guess for guess in drawing.guesses[:ALTERNATIVES] if guess.probability >= WORTH_NAMING]


def _may_be_anything(drawing: Drawing) -> bool:
    """Not even the kind of thing is known, as of most photographs."""
    return not drawing.sure and not _options(drawing) and drawing.kind.probability < PLAIN_SURE


def _ground(drawing: Drawing) -> str:
    if drawing.guesses[0].thing.scene or drawing.ground.probability < PLAIN_SURE:
        return ""
    word = drawing.ground.word
    return f" on a background of {word}" if word == SEVERAL else f" on a {word} background"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
