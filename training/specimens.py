"""Pictures to recognise and what is in them: icons of any style on any ground, scenes, and pictures of nothing.

As in ``training.compose`` a number gives a picture, the same on every machine; but here what is in it is told in words
that can be compared, and the picture has been through what pictures go through: other sizes, blur, noise, JPEG.

>>> specimens = Specimens(icons, names, 64, Shares(), seed=0)
>>> specimens.specimen(7).truth
Truth(things=('owl',), colour='purple', ground='yellow', amount='one')
"""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from illustrious.vision.drawing import SEVERAL
from training.colours import COLOURS, main_colour, nearest, painted
from training.compose import COUNT_LAYOUTS, COUNTS, PAINTS, held_out
from training.concepts import FULL_SQUARE, STARTER
from training.icons import Icon, Pixels
from training.scenes import HAIR, HAIR_COLOURS, SCENES, Brush, dyed, in_a_place

Random = np.random.Generator
T = TypeVar("T")

AMOUNTS = ("one", "two", "three", "four", "different")
"""How many things: up to four of a kind, or two that differ."""

SCENE_THINGS = {
    "landscape": "landscape with mountains and a lake",
    "sunset": "sunset over the sea",
    "city": "city by day",
    "city night": "city at night",
    "city neon": "neon city at night",
    "castle_in_the_clouds": "castle in the clouds",
    "dragon_breathing_fire": "dragon breathing fire",
}
"""What the scenes are called."""

SCENE_ICONS = frozenset({"castle", "dragon", "dragon face", "fire"})
"""What a style must have for the scenes to be drawn with it."""

APART = 1 << 40
"""The number of the first picture that is shown or measured; no run learns from that many."""

KEPT = 100_000
"""So many composed pictures are kept at most (1.2 GB at 64 pixels). They come round in turn, so of more than are kept
none would be there still when its turn comes."""

OWN_COLOUR = 0.5
"""The share of an icon's pixels from which on their colour is the icon's."""


@dataclass(frozen=True)
class Shares:
    """How often each kind of picture is made, in parts. ``painted``: the share of icons in another colour than their
    own, of those that may be; ``starter``: of things that the starter image model is to know, beside what chance
    gives them; ``worn``: of pictures that have been through something; ``grounds``: of white, one colour, two that run
    into one another, and a texture. ``composed``: how many pictures there are; after these they come again, mirrored
    or worn in other ways, which costs a tenth of composing new ones."""

    single: float = 58
    count: float = 9
    pair: float = 7
    place: float = 7
    hair: float = 2
    scene: float = 7
    nothing: float = 8
    painted: float = 0.3
    starter: float = 0.5
    worn: float = 0.5
    composed: int = 30_000
    grounds: tuple[float, float, float, float] = (0.3, 0.52, 0.12, 0.06)

    @property
    def kinds(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)[:7]}


@dataclass(frozen=True)
class Truth:
    """``things``: none in a picture of nothing, two where they differ. What is ``None`` is not to be asked about."""

    things: tuple[str, ...] = ()
    colour: str | None = None
    ground: str | None = None
    amount: str | None = None


@dataclass(frozen=True, eq=False)
class Specimen:
    """``pixels``: (size, size, 3) sRGB."""

    pixels: Pixels
    truth: Truth


class Specimens:
    """``names``: label → what it is called; icons of other labels are left out. ``paintable``: labels that may be
    painted. With ``unseen``, combinations that ``training.compose.held_out`` keeps are drawn alone, else all but them.
    """

    def __init__(
        self,
        icons: Sequence[Icon],
        names: Mapping[str, str],
        size: int,
        shares: Shares,
        seed: int,
        paintable: Collection[str] = (),
        unseen: bool = False,
    ) -> None:
        self._size = size
        self._shares = shares
        self._seed = seed
        self._names = names
        self._unseen = unseen
        self._paintable = frozenset(paintable)
        self._drawings: dict[str, dict[str, list[Icon]]] = defaultdict(lambda: defaultdict(list))
        self._styles: dict[str, dict[str, Pixels]] = defaultdict(dict)
        for icon in icons:
            self._styles[icon.style][icon.label] = icon.pixels
            if icon.label in names:
                self._drawings[names[icon.label]][icon.style].append(icon)
        self.things = sorted(self._drawings)
        starter = {names[label] for label in STARTER if label in names}
        self._starter = [thing for thing in self.things if thing in starter]
        self._scenic = [style for style, have in self._styles.items() if have.keys() >= SCENE_ICONS]
        self._dyeable = [
            (hair.label, style) for hair in HAIR for style in HAIR_COLOURS if hair.label in self._styles.get(style, ())
        ]
        kinds = {kind: odds for kind, odds in shares.kinds.items() if odds > 0 and self._possible(kind)}
        self._kinds = list(kinds)
        self._odds = np.array(list(kinds.values())) / sum(kinds.values())
        self._own_colour = lru_cache(16384)(lambda icon: main_colour(icon.pixels))
        self._painted = lru_cache(4096)(lambda icon, colour: painted(icon.pixels, COLOURS[colour]))
        self._made = lru_cache(shares.composed if shares.composed <= KEPT else 0)(self._compose)

    def specimen(self, index: int) -> Specimen:
        made = self._made(index if index >= APART else index % self._shares.composed)
        random = np.random.default_rng((self._seed, index, 1))
        pixels = made.pixels[:, ::-1] if random.random() < 0.5 else made.pixels
        return Specimen(worn(pixels, random) if random.random() < self._shares.worn else pixels, made.truth)

    def _compose(self, number: int) -> Specimen:
        random = np.random.default_rng((self._seed, number))
        kind = self._kinds[int(random.choice(len(self._kinds), p=self._odds))]
        made: Specimen = getattr(self, f"_{kind}")(random)
        return made

    def _possible(self, kind: str) -> bool:
        return {"scene": bool(self._scenic), "hair": bool(self._dyeable)}.get(kind, True)

    def _allowed(self, *combination: str) -> bool:
        return held_out(*combination) == self._unseen

    def _icon(self, random: Random) -> tuple[str, Icon]:
        things = self._starter if self._starter and random.random() < self._shares.starter else self.things
        thing = _one(random, things)
        drawings = self._drawings[thing]
        return thing, _one(random, drawings[_one(random, list(drawings))])

    def _thing(self, random: Random) -> tuple[str, Pixels, str | None, Icon]:
        """What it is, its pixels, its colour where it has one, the icon."""
        thing, icon = self._icon(random)
        if icon.label in self._paintable and random.random() < self._shares.painted:
            colour = _one(random, PAINTS)
            if self._allowed("colour", icon.label, colour):
                return thing, self._painted(icon, colour), colour, icon
        colour, share = self._own_colour(icon)
        return thing, icon.pixels, colour if share >= OWN_COLOUR else None, icon

    def _single(self, random: Random) -> Specimen:
        thing, pixels, colour, icon = self._thing(random)
        ground, word = self._ground(random, icon.label, colour)
        side = random.uniform(0.45, 1.05) if random.random() < 0.5 else random.uniform(0.85, 1.0)
        room = max(0.04, (1 - side) / 2)
        centre = (0.5 + random.uniform(-room, room), 0.5 + random.uniform(-room, room))
        picture = _placed(ground, [(pixels, centre, side)], random)
        return Specimen(picture, Truth((thing,), colour, word, "one"))

    def _count(self, random: Random) -> Specimen:
        thing, pixels, colour, icon = self._thing(random)
        number = int(random.choice([2, 2, 3, 3, 4]))
        if icon.label in FULL_SQUARE or not self._allowed("count", icon.label, COUNTS[number]):
            return self._single(random)
        ground, word = self._ground(random, icon.label, colour)
        centres, side = COUNT_LAYOUTS[number]
        side *= random.uniform(0.8, 1.05)
        placed = [(pixels, _near(random, centre), side) for centre in centres]
        return Specimen(_placed(ground, placed, random), Truth((thing,), colour, word, COUNTS[number]))

    def _pair(self, random: Random) -> Specimen:
        (first, one, colour, _), (second, other, _, _) = self._thing(random), self._thing(random)
        if first == second or not self._allowed("pair", *sorted((first, second))):
            return self._single(random)
        ground, word = self._ground(random, "", colour)
        layout = ((0.25, 0.5), (0.75, 0.5)) if random.random() < 0.7 else ((0.5, 0.26), (0.5, 0.74))
        placed = [(pixels, _near(random, at), 0.48) for pixels, at in zip((one, other), layout, strict=True)]
        return Specimen(_placed(ground, placed, random), Truth((first, second), None, word, "different"))

    def _place(self, random: Random) -> Specimen:
        thing, pixels, colour, icon = self._thing(random)
        brush = Brush(self._size, {icon.label: pixels})
        in_a_place(brush, random, icon.label, thing)
        return Specimen(brush.finished(), Truth((thing,), colour, SEVERAL, "one"))

    def _hair(self, random: Random) -> Specimen:
        label, style = self._dyeable[int(random.integers(len(self._dyeable)))]
        colour = _one(random, PAINTS)
        ground, word = self._ground(random, "", colour)
        icon = dyed(self._styles[style][label], style, COLOURS[colour])
        placed = [(icon, (0.5, 0.5), random.uniform(0.85, 1.0))]
        return Specimen(_placed(ground, placed, random), Truth((self._names[label],), None, word, "one"))

    def _scene(self, random: Random) -> Specimen:
        brush = Brush(self._size, self._styles[_one(random, self._scenic)])
        scene = _one(random, list(SCENES))
        caption = SCENES[scene](brush, random)
        return Specimen(brush.finished(), Truth((_scene_thing(scene, caption),), None, SEVERAL, "one"))

    def _nothing(self, random: Random) -> Specimen:
        return Specimen(nothing(random, self._size), Truth())

    def _ground(self, random: Random, label: str, avoid: str | None) -> tuple[Pixels, str]:
        """(size, size, 3) and what its colour is called."""
        size, kind = self._size, int(random.choice(4, p=self._shares.grounds))
        if kind == 0 and avoid != "white":
            return np.full((size, size, 3), 255, np.uint8), "white"
        if kind == 3:
            return leaves(random, size), SEVERAL
        words = [word for word in COLOURS if word != avoid and self._allowed("ground", label, word)]
        words = words or [word for word in COLOURS if word != avoid]
        first, last = (_shade(random, COLOURS[_one(random, words)]) for _ in range(2))
        if kind == 2:
            share = np.linspace(0, 1, size)[:, None, None]
            blend = np.broadcast_to(first * (1 - share) + last * share, (size, size, 3))
            blend = blend if random.random() < 0.7 else blend.transpose(1, 0, 2)
            same = nearest(first) == nearest(last)
            return blend.round().astype(np.uint8), nearest(first) if same else SEVERAL
        return np.broadcast_to(first.round().astype(np.uint8), (size, size, 3)), nearest(first)


def kept_apart(icons: Sequence[Icon], names: Mapping[str, str], main: str) -> tuple[list[Icon], list[Icon]]:
    """The icons to learn from, and one in seven of those of styles other than ``main`` whose thing is drawn in
    ``main`` too: with these the probabilities are set right, since to the learner they are what a new style is."""
    known = {names.get(icon.label) for icon in icons if icon.style == main}
    learned: list[Icon] = []
    kept: list[Icon] = []
    for icon in icons:
        new = icon.style != main and names.get(icon.label) in known and held_out("drawing", icon.style, icon.label)
        (kept if new else learned).append(icon)
    return learned, kept


def worn(pixels: Pixels, random: Random) -> Pixels:
    """The picture after some of: another size and back, blur, other light, noise, JPEG."""
    picture, size = Image.fromarray(pixels), len(pixels)
    if random.random() < 0.35:
        smaller = max(8, int(size * random.uniform(0.4, 0.95)))
        picture = picture.resize((smaller, smaller), _one(random, _FILTERS))
        picture = picture.resize((size, size), _one(random, _FILTERS))
    if random.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.0)))
    if random.random() < 0.3:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(random.integers(35, 95)))
        picture = Image.open(buffer)
    light = np.asarray(picture, np.float32)
    if random.random() < 0.4:
        light = (light - 128) * random.uniform(0.85, 1.15) + 128 + random.uniform(-14, 14)
    if random.random() < 0.3:
        light = light + random.normal(0, random.uniform(2, 14), light.shape)
    changed: Pixels = light.clip(0, 255).astype(np.uint8)
    return changed


_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


def nothing(random: Random, size: int) -> Pixels:
    """A picture of nothing one could name, or of what no icon shows: a colour, a run of colours, noise, shapes, and
    what has the statistics of photographs."""
    kind = _one(random, ("plain", "run", "noise", "shapes", "leaves", "leaves", "leaves", "clouds", "clouds"))
    if kind == "plain":
        return np.broadcast_to(random.integers(0, 256, 3).astype(np.uint8), (size, size, 3))
    if kind == "run":
        corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        return np.asarray(Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC))
    if kind == "noise":
        noise = random.normal(128, random.uniform(20, 90), (size, size, 3 if random.random() < 0.6 else 1))
        return np.broadcast_to(noise.clip(0, 255).astype(np.uint8), (size, size, 3))
    if kind == "shapes":
        return _shapes(random, size)
    if kind == "leaves":
        return leaves(random, size)
    return _toned(random, clouds(random, size))


def clouds(random: Random, size: int) -> npt.NDArray[np.float64]:
    """(size, size) from 0 to 1: noise of all sizes, the larger the stronger, as in natural pictures (Field, "Relations
    between the statistics of natural images and the response properties of cortical cells", 1987)."""
    total, steepness = np.zeros((size, size)), random.uniform(0.9, 1.7)
    cells = 2
    while cells <= size:
        octave = Image.fromarray(random.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(octave.resize((size, size), Image.Resampling.BICUBIC)) * cells**-steepness
        cells *= 2
    return (total - total.min()) / max(float(np.ptp(total)), 1e-9)


def leaves(random: Random, size: int) -> Pixels:
    """Textured shapes that hide one another: the dead leaves model of photographs (Lee, Mumford and Huang, "Occlusion
    models for natural images", 2001)."""
    picture = Image.fromarray(_toned(random, clouds(random, size)))
    textures = [clouds(random, size) for _ in range(2)]
    for _ in range(int(random.integers(0, 25))):
        radius = size * 0.06 / max(random.random(), 0.12)
        (x, y), (wide, high) = random.uniform(0, size, 2), radius * random.uniform(0.5, 1.5, 2)
        mask = Image.new("L", (size, size))
        draw = ImageDraw.Draw(mask)
        (draw.ellipse if random.random() < 0.6 else draw.rectangle)((x - wide, y - high, x + wide, y + high), fill=255)
        if random.random() < 0.5:
            mask = mask.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 3)))
        picture.paste(Image.fromarray(_toned(random, _one(random, textures))), (0, 0), mask)
    return np.asarray(picture)


def _toned(random: Random, light: npt.NDArray[np.float64]) -> Pixels:
    """Lightness from dark to bright as a run of two colours, mostly dull ones."""
    dull = random.uniform(0, 0.9)
    ends = random.integers(0, 256, (2, 3)) * (1 - dull) + random.integers(0, 256, (2, 1)) * dull
    toned: Pixels = (ends[0] * (1 - light[..., None]) + ends[1] * light[..., None]).round().astype(np.uint8)
    return toned


def _shapes(random: Random, size: int) -> Pixels:
    """Flat shapes in no order: lines, triangles, boxes."""
    picture = Image.new("RGB", (size, size), tuple(int(value) for value in random.integers(0, 256, 3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(2, 14))):
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        points = [(float(x), float(y)) for x, y in random.uniform(0, size, (int(random.integers(2, 5)), 2))]
        if len(points) == 2:
            draw.line(points, fill=colour, width=int(random.integers(1, 5)))
        else:
            draw.polygon(points, fill=colour)
    return np.asarray(picture)


def _scene_thing(scene: str, caption: str) -> str:
    if scene == "city" and any(word in caption for word in ("cyberpunk", "neon", "futuristic")):
        return SCENE_THINGS["city neon"]
    return SCENE_THINGS["city night" if scene == "city" and "night" in caption else scene]


def _placed(ground: Pixels, icons: Sequence[tuple[Pixels, tuple[float, float], float]], random: Random) -> Pixels:
    """Icons with their centres and sides, in parts of the picture; all turned alike."""
    size = len(ground)
    picture = Image.fromarray(np.ascontiguousarray(ground))
    turn = random.uniform(-15, 15) if random.random() < 0.3 else 0.0
    stretch = random.uniform(0.87, 1.15) if random.random() < 0.3 else 1.0
    for pixels, (x, y), side in icons:
        stamp = Image.fromarray(pixels)
        wide, high = (max(1, round(side * size * factor)) for factor in (stretch, 1 / stretch))
        stamp = stamp.resize((wide, high), Image.Resampling.BICUBIC)
        if turn:
            stamp = stamp.rotate(turn, Image.Resampling.BICUBIC)
        picture.paste(stamp, (round(x * size - wide / 2), round(y * size - high / 2)), stamp)
    return np.asarray(picture)


def _near(random: Random, centre: tuple[float, float]) -> tuple[float, float]:
    x, y = centre
    return x + random.uniform(-0.04, 0.04), y + random.uniform(-0.04, 0.04)


def _shade(random: Random, colour: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    return (np.array(colour) + random.uniform(-22, 22, 3)).clip(0, 255)


def _one(random: Random, choices: Sequence[T]) -> T:
    return choices[int(random.integers(len(choices)))]
