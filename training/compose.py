"""Training pictures with captions, made from icons by rule: one number gives one sample, the same on every machine.

>>> composer = Composer(load_icons(["twemoji"], 64, cache, STARTER), 64, Mixture(), seed=0)
>>> composer.sample(7).caption
'a purple owl on a yellow background'

Combinations for which ``held_out`` is true are never drawn: they are what the scores ask for.
"""

import zlib
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from training.colours import COLOURS, main_colour, painted
from training.concepts import ADDED, FULL_SQUARE, NATURE_COLOUR_ONLY, STARTER, alike, nouns, plural, with_article
from training.icons import Icon, Pixels
from training.names import PLACE, coloured
from training.scenes import HAIR, HAIR_COLOURS, SCENES, Brush, dyed, in_a_place

Random = np.random.Generator

COUNTS = {2: "two", 3: "three", 4: "four"}
PAINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""Colours an icon is painted in. Hair is dyed in these too."""

STYLE_WORDS = {
    "twemoji": ("emoji", "twemoji style", "flat emoji"),
    "fluent-flat": ("fluent style", "flat fluent style"),
    "fluent": ("3d style", "glossy 3d style"),
    "noto": ("noto style", "shaded noto style"),
    "noto-v1": ("old noto style",),
    "fxemoji": ("firefox style",),
}

COUNT_LAYOUTS: dict[int, tuple[tuple[tuple[float, float], ...], float]] = {
    2: (((0.26, 0.5), (0.74, 0.5)), 0.46),
    3: (((0.26, 0.28), (0.74, 0.28), (0.5, 0.74)), 0.44),
    4: (((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)), 0.44),
}
"""Centres and side, in parts of the picture."""


@dataclass(frozen=True)
class Mixture:
    """How often each kind of picture is made, in parts. ``style_words``: the share of captions that name the style of
    the first style trained on; those of other styles always do. ``keywords``: the share of captions of a single thing
    that go on with one of the words that the CLDR files it under. ``painted``: the share of icons painted in another
    colour. ``added``: how much oftener than others the concepts are drawn that the model it goes on from did not know.
    """

    single: float = 50
    sized: float = 4
    pair: float = 9
    count: float = 7
    place: float = 6
    hair: float = 6
    landscape: float = 4
    sunset: float = 3
    city: float = 4
    castle_in_the_clouds: float = 3
    dragon_breathing_fire: float = 4
    painted: float = 0.35
    style_words: float = 0.05
    keywords: float = 0.0
    other_styles: float = 0.0
    added: float = 1.0

    @property
    def kinds(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _SHARES}


_SHARES = ("painted", "style_words", "keywords", "other_styles", "added")


@dataclass(frozen=True, eq=False)
class Sample:
    """``pixels``: (size, size, 3) sRGB."""

    pixels: Pixels
    caption: str


def held_out(kind: str, *parts: str) -> bool:
    """Whether a combination is kept for the scores: about one in seven, by its words alone."""
    return zlib.crc32("|".join((kind, *parts)).encode()) % 7 == 0


class Choice:
    """Labels to take from, those of ``ADDED`` so many times as often."""

    def __init__(self, labels: list[str], added: float) -> None:
        self.labels = labels
        odds = np.cumsum([added if label in ADDED else 1.0 for label in labels])
        self._shares = odds / odds[-1]

    def take(self, random: Random) -> str:
        return self.labels[int(np.searchsorted(self._shares, random.random(), side="right"))]


class Composer:
    """``icons``: of one or more styles. The first style given is the one a caption without style words means.

    ``everything``: also what is held out, for a judge must know all it is asked about.
    """

    def __init__(self, icons: list[Icon], size: int, mixture: Mixture, seed: int, everything: bool = False) -> None:
        self._size = size
        self._mixture = mixture
        self._seed = seed
        self._everything = everything
        self._styles: dict[str, dict[str, Pixels]] = defaultdict(dict)
        self._tags: dict[str, list[str]] = {}
        for icon in icons:
            self._styles[icon.style][icon.label] = icon.pixels
            # A colour among them would be wrong of what is painted in another.
            said = {*COLOURS, *nouns(icon.label)}
            self._tags[icon.label] = [tag for tag in icon.tags if tag not in said]
        self._main = next(iter(self._styles))
        self._others = [style for style in self._styles if style != self._main]
        labels = sorted(self._styles[self._main])
        kinds_of = {icon.label: icon.kind for icon in icons}
        # Of the starter's things it is known one by one; of all others by their kind.
        whole = {label for label in labels if label not in STARTER and kinds_of[label] == PLACE}
        own = {label for label in labels if label not in STARTER and not coloured(label, kinds_of[label])}
        self._unpainted = NATURE_COLOUR_ONLY | own
        self._labels = Choice(labels, mixture.added)
        self._things = Choice([label for label in labels if label not in FULL_SQUARE | whole], mixture.added)
        kinds = self._possible(mixture.kinds)
        self._kinds = list(kinds)
        self._odds = np.array(list(kinds.values())) / sum(kinds.values())
        self._painted = lru_cache(4096)(self._paint)
        self._colour_of = lru_cache(8192)(lambda style, label: main_colour(self._styles[style][label]))

    def sample(self, index: int) -> Sample:
        random = np.random.default_rng((self._seed, index))
        kind = self._kinds[int(random.choice(len(self._kinds), p=self._odds))]
        if kind in SCENES:
            brush = Brush(self._size, self._styles[self._main])
            return Sample(caption=_spoken(random, SCENES[kind](brush, random)), pixels=brush.finished())
        made: Sample = getattr(self, f"_{kind}")(random)
        return Sample(made.pixels, _spoken(random, made.caption))

    def _left_out(self, kind: str, *parts: str) -> bool:
        """Under any label that goes by the same noun: a dragon and a dragon's face are both called a dragon."""
        if self._everything:
            return False
        told = product(*map(alike, parts))
        return any(held_out(kind, *(sorted(each) if kind == "pair" else each)) for each in told)

    def _possible(self, kinds: dict[str, float]) -> dict[str, float]:
        """Without those that need an icon that is not there, or hair that cannot be dyed."""
        needs = {"castle_in_the_clouds": {"castle"}, "dragon_breathing_fire": {"dragon", "dragon face", "fire"}}
        needs["hair"] = {hair.label for hair in HAIR}
        if self._main not in HAIR_COLOURS:
            kinds = {**kinds, "hair": 0}
        have = set(self._labels.labels)
        return {kind: odds for kind, odds in kinds.items() if odds > 0 and needs.get(kind, set()) <= have}

    def _paint(self, style: str, label: str, colour: str) -> Pixels:
        return painted(self._styles[style][label], COLOURS[colour])

    def _thing(self, random: Random, labels: Choice, painted_share: float) -> tuple[str, str, Pixels, str, str]:
        """An icon by a noun, perhaps with a colour word: label, words, pixels, the colour named or '', style."""
        label = labels.take(random)
        style = self._main
        others = [other for other in self._others if label in self._styles[other]]
        if others and random.random() < self._mixture.other_styles:
            style = others[int(random.integers(len(others)))]
        pixels = self._styles[style][label]
        names = nouns(label)
        noun = names[0] if random.random() < 0.6 else names[int(random.integers(len(names)))]
        if random.random() < painted_share and label not in self._unpainted:
            colour = PAINTS[int(random.integers(len(PAINTS)))]
            if not self._left_out("colour", label, colour):
                return label, f"{colour} {noun}", self._painted(style, label, colour), colour, style
        colour, share = self._colour_of(style, label)
        names_itself = share > 0.6 and label not in self._unpainted and random.random() < 0.3
        if names_itself and not self._left_out("colour", label, colour):
            return label, f"{colour} {noun}", pixels, colour, style
        return label, noun, pixels, "", style

    def _styled(self, random: Random, words: str, style: str) -> str:
        if style != self._main or random.random() < self._mixture.style_words:
            known = STYLE_WORDS[style]
            return f"{words}, {known[int(random.integers(len(known)))]}"
        return words

    def _single(self, random: Random) -> Sample:
        label, noun, pixels, colour, style = self._thing(random, self._labels, self._mixture.painted)
        ground, words = self._ground(random, label, colour)
        side = random.uniform(0.9, 1.0)
        room = (1 - side) / 2
        centre = (0.5 + random.uniform(-room, room), 0.5 + random.uniform(-room, room))
        picture = self._placed(ground, [(pixels, centre, side)])
        return Sample(picture, self._styled(random, f"{with_article(noun)}{words}{self._filed(random, label)}", style))

    def _filed(self, random: Random, label: str) -> str:
        tags = self._tags[label]
        if not tags or random.random() >= self._mixture.keywords:
            return ""
        return f", {tags[int(random.integers(len(tags)))]}"

    def _sized(self, random: Random) -> Sample:
        label, noun, pixels, colour, style = self._thing(random, self._things, 0.15)
        ground, words = self._ground(random, label, colour)
        size = ("small", "tiny", "big")[int(random.integers(3))]
        side = {"small": 0.5, "tiny": 0.33, "big": 1.0}[size] * random.uniform(0.95, 1.05)
        room = max(0.0, (1 - side) / 2 * 0.5)
        centre = (0.5 + random.uniform(-room, room), 0.5 + random.uniform(-room, room))
        said = with_article(f"{size} {noun}") + words
        return Sample(self._placed(ground, [(pixels, centre, side)]), self._styled(random, said, style))

    def _count(self, random: Random) -> Sample:
        number = int(random.choice([2, 2, 3, 3, 4]))
        label, noun, pixels, colour, style = self._thing(random, self._things, 0.2)
        if self._left_out("count", label, COUNTS[number]):
            return self._single(random)
        ground, words = self._ground(random, label, colour)
        centres, side = COUNT_LAYOUTS[number]
        jitter = random.uniform(-0.02, 0.02, (number, 2))
        placed = [(pixels, (x + dx, y + dy), side) for (x, y), (dx, dy) in zip(centres, jitter, strict=True)]
        return Sample(
            self._placed(ground, placed), self._styled(random, f"{COUNTS[number]} {plural(noun)}{words}", style)
        )

    def _pair(self, random: Random) -> Sample:
        first = self._thing(random, self._things, 0.2)
        second = self._thing(random, self._things, 0.2)
        if first[0] == second[0] or self._left_out("pair", first[0], second[0]):
            return self._single(random)
        ground, words = self._ground(random, "", "")
        a, b = with_article(first[1]), with_article(second[1])
        if random.random() < 0.72:
            places = ((0.25, 0.5 + random.uniform(-0.08, 0.08)), (0.75, 0.5 + random.uniform(-0.08, 0.08)))
            said = (f"{a} and {b}", f"{a} next to {b}", f"{a} left of {b}", f"{b} right of {a}")
            caption = said[int(random.integers(len(said)))]
        else:
            places = ((0.5 + random.uniform(-0.1, 0.1), 0.26), (0.5 + random.uniform(-0.1, 0.1), 0.74))
            caption = f"{a} above {b}" if random.random() < 0.5 else f"{b} below {a}"
        placed = [(first[2], places[0], 0.48), (second[2], places[1], 0.48)]
        caption = self._styled(random, caption + words, first[4]) if first[4] == second[4] else caption + words
        return Sample(self._placed(ground, placed), caption)

    def _place(self, random: Random) -> Sample:
        label, noun, pixels, _, style = self._thing(random, self._things, 0.15)
        brush = Brush(self._size, {label: pixels})
        caption = in_a_place(brush, random, label, with_article(noun))
        return Sample(brush.finished(), self._styled(random, caption, style))

    def _hair(self, random: Random) -> Sample:
        hair = HAIR[int(random.choice(len(HAIR), p=[0.6, 0.25, 0.15]))]
        colour = PAINTS[int(random.integers(len(PAINTS)))]
        ground, words = self._ground(random, hair.label, colour)
        icon = dyed(self._styles[self._main][hair.label], self._main, COLOURS[colour])
        picture = self._placed(ground, [(icon, (0.5, 0.5), random.uniform(0.9, 1.0))])
        noun = hair.nouns[int(random.integers(len(hair.nouns)))]
        return Sample(picture, f"{noun} with {colour} hair{words}")

    def _ground(self, random: Random, label: str, avoid: str) -> tuple[Pixels, str]:
        """(size, size, 3) and its words: white mostly, a colour, or two colours from top to bottom."""
        size, chance = self._size, random.random()
        white = np.full((size, size, 3), 255, np.uint8)
        if chance < 0.38 and avoid != "white":
            return white, ("" if random.random() < 0.75 else " on a white background")
        names = [name for name in COLOURS if name not in (avoid, "white") and not self._left_out("ground", label, name)]
        first = names[int(random.integers(len(names)))]
        if chance < 0.9:
            ground = np.full((size, size, 3), COLOURS[first], np.uint8)
            plainly = random.random() < 0.8
            return ground, (f" on {with_article(first)} background" if plainly else f", {first} background")
        second = names[int(random.integers(len(names)))]
        share = np.linspace(0, 1, size)[:, None, None]
        blend = np.array(COLOURS[first]) * (1 - share) + np.array(COLOURS[second]) * share
        colours = first if first == second else f"{first} and {second}"
        words = f" on {with_article(colours)} background"
        return np.broadcast_to(blend.round().astype(np.uint8), (size, size, 3)), words

    def _placed(self, ground: Pixels, icons: list[tuple[Pixels, tuple[float, float], float]]) -> Pixels:
        picture = Image.fromarray(ground)
        for pixels, (x, y), side in icons:
            stamp = Image.fromarray(pixels)
            edge = max(1, round(side * self._size))
            if edge != stamp.width:
                stamp = stamp.resize((edge, edge), Image.Resampling.BICUBIC)
            picture.paste(stamp, (round(x * self._size - edge / 2), round(y * self._size - edge / 2)), stamp)
        return np.asarray(picture)


TAILS = (", high quality", ", detailed", ", digital art", ", colorful", ", studio lighting")


def _spoken(random: Random, caption: str) -> str:
    """The caption, now and then with the words people add to every prompt, so that they do not disturb."""
    if random.random() < 0.08:
        return caption + TAILS[int(random.integers(len(TAILS)))]
    return caption
