"""Whole pictures drawn by rule rather than taken from an icon: landscapes, cities, sunsets, castles in the clouds.

Each scene is a function of ``(Brush, Generator)`` that draws and returns the caption. A ``Brush`` measures everything
in parts of the picture's side, so a scene is the same at any size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from training.colours import COLOURS, painted
from training.icons import Pixels

Colour = tuple[int, int, int]
Random = np.random.Generator

OVERSAMPLING = 3

SKIES: dict[str, tuple[Colour, Colour]] = {
    "by day": ((90, 175, 245), (205, 235, 255)),
    "at sunset": ((120, 70, 150), (255, 165, 80)),
    "at dawn": ((150, 170, 225), (255, 210, 190)),
    "at night": ((12, 16, 52), (40, 50, 105)),
}


class Brush:
    """A picture being drawn. ``icons``: label → RGBA pixels of the icons a scene may place."""

    def __init__(self, size: int, icons: Mapping[str, Pixels]) -> None:
        self.size = size * OVERSAMPLING
        self.icons = icons
        self.picture = Image.new("RGB", (self.size, self.size))
        self._draw = ImageDraw.Draw(self.picture, "RGBA")

    def finished(self) -> Pixels:
        size = self.size // OVERSAMPLING
        return np.asarray(self.picture.resize((size, size), Image.Resampling.BOX))

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, end: float = 1.0) -> None:
        first, last = round(start * self.size), round(end * self.size)
        share = np.linspace(0, 1, max(last - first, 1))[:, None, None]
        column = np.array(top) * (1 - share) + np.array(bottom) * share
        rows = np.broadcast_to(column, (len(column), self.size, 3)).round().astype(np.uint8)
        self.picture.paste(Image.fromarray(np.ascontiguousarray(rows)), (0, first))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([(x * self.size, y * self.size) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.rectangle([value * self.size for value in (left, top, right, bottom)], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: int = 255) -> None:
        box = [value * self.size for value in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(box, fill=(*colour, alpha))

    def icon(
        self,
        label: str,
        x: float,
        y: float,
        side: float,
        turn: float = 0.0,
        flip: bool = False,
        colour: str | None = None,
    ) -> None:
        """An icon centred on (x, y), turned anticlockwise by degrees."""
        pixels = self.icons[label]
        stamp = Image.fromarray(painted(pixels, COLOURS[colour]) if colour else pixels)
        edge = max(1, round(side * self.size))
        stamp = stamp.resize((edge, edge), Image.Resampling.BICUBIC)
        if flip:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if turn:
            stamp = stamp.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        corner = (round(x * self.size - stamp.width / 2), round(y * self.size - stamp.height / 2))
        self.picture.paste(stamp, corner, stamp)

    def cloud(self, x: float, y: float, width: float, colour: Colour = (255, 255, 255)) -> None:
        for shift, lift, radius in ((-0.32, 0.0, 0.2), (-0.08, -0.1, 0.26), (0.2, -0.03, 0.22), (0.38, 0.04, 0.15)):
            self.disc(x + shift * width, y + lift * width, radius * width, colour)
        self.box(x - 0.34 * width, y, x + 0.4 * width, y + 0.19 * width, colour)

    def stars(self, random: Random, lowest: float, count: int) -> None:
        for x, y in random.random((count, 2)):
            self.disc(x, y * lowest, 0.007 + 0.006 * random.random(), (255, 250, 215))

    def moon(self, x: float, y: float, radius: float, sky: Colour | None = None) -> None:
        """Full, or a crescent where the colour of the sky behind is given."""
        self.disc(x, y, radius, (250, 240, 195))
        if sky:
            self.disc(x + radius * 0.5, y - radius * 0.2, radius * 0.85, sky)


def _chosen(random: Random, words: Sequence[str]) -> str:
    return words[int(random.integers(len(words)))]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(min(255, max(0, value * factor))) for value in colour)
    return red, green, blue


def _sky(brush: Brush, random: Random, time: str, horizon: float) -> None:
    top, bottom = SKIES[time]
    brush.gradient(top, bottom, 0, horizon)
    x = random.uniform(0.15, 0.85)
    if time == "at night":
        brush.stars(random, horizon * 0.9, 14)
        brush.moon(x, 0.16, 0.08)
    elif time == "by day":
        brush.disc(x, 0.15, 0.085, (255, 225, 80))
        brush.cloud(1 - x, random.uniform(0.12, 0.25), random.uniform(0.25, 0.4))
    else:
        brush.disc(x, horizon * 0.75, 0.11, (255, 225, 140))


def landscape(brush: Brush, random: Random) -> str:
    """Mountains with snow over a lake, trees on its shore."""
    time = _chosen(random, ["by day", "by day", "by day", "at sunset", "at night", "at dawn"])
    dark = 0.45 if time == "at night" else 0.8 if time == "at sunset" else 1.0
    horizon = random.uniform(0.52, 0.62)
    _sky(brush, random, time, horizon)
    rock: Colour = _shade(((112, 122, 142), (98, 108, 128), (125, 110, 110))[int(random.integers(3))], dark)
    peaks = sorted(random.uniform(0.0, 1.0, int(random.integers(2, 5))))
    for number, x in enumerate(peaks):
        top, half = random.uniform(0.14, 0.34), random.uniform(0.24, 0.38)
        stone = _shade(rock, 1 - 0.1 * (number % 2))
        brush.polygon([(x - half, horizon), (x, top), (x + half, horizon)], stone)
        snow, run = 0.33 * (horizon - top), 0.33 * half
        cap = [(x, top), (x + run, top + snow), (x + run * 0.3, top + snow * 0.75), (x, top + snow * 1.1)]
        brush.polygon(
            [*cap, (x - run * 0.4, top + snow * 0.75), (x - run, top + snow)], _shade((250, 252, 255), max(dark, 0.6))
        )
    grass = _shade((88, 165, 70), dark)
    brush.box(0, horizon, 1, 1, grass)
    water = _shade((60, 140, 215), dark)
    shore = horizon + 0.05
    brush.polygon(
        [
            (0.0, shore + 0.03),
            (0.25, shore),
            (0.85, shore + 0.01),
            (1.0, shore + 0.04),
            (1.0, 0.9),
            (0.6, 0.97),
            (0.0, 0.86),
        ],
        water,
    )
    for _ in range(5):
        x, y = random.uniform(0.05, 0.75), random.uniform(shore + 0.07, 0.84)
        brush.box(x, y, x + 0.2, y + 0.012, _shade(water, 1.25))
    trees = random.random() < 0.6
    if trees:
        for x in random.uniform(0, 1, 5):
            y, height = random.uniform(0.86, 1.0), random.uniform(0.14, 0.24)
            leaf = _shade((35, 105, 60), dark)
            brush.polygon([(x - height * 0.32, y), (x, y - height), (x + height * 0.32, y)], leaf)
    words = _chosen(
        random, ["mountains and lakes", "mountains and a lake", "mountains and lakes", "a lake and mountains"]
    )
    kind = _chosen(random, ["a landscape with", "a beautiful landscape with", "landscape with", "a lovely view of", ""])
    further = _chosen(random, [" and trees", ", trees", ""]) if trees else ""
    return f"{kind} {words}{further}{'' if time == 'by day' else ' ' + time}".strip()


def sunset(brush: Brush, random: Random) -> str:
    """The sun half in the sea, its light on the water."""
    name = _chosen(random, ["sunset", "sunset", "sunset", "sunrise"])
    top, bottom = ((95, 50, 130), (255, 140, 60)) if name == "sunset" else ((120, 160, 230), (255, 205, 140))
    horizon = random.uniform(0.52, 0.62)
    brush.gradient(top, bottom, 0, horizon)
    x, radius = random.uniform(0.3, 0.7), random.uniform(0.14, 0.2)
    brush.disc(x, horizon - radius * 0.35, radius * 1.45, (255, 210, 120), 90)
    brush.disc(x, horizon - radius * 0.35, radius, (255, 232, 120))
    for _ in range(int(random.integers(0, 3))):
        brush.cloud(random.random(), random.uniform(0.08, 0.22), random.uniform(0.2, 0.35), (250, 170, 150))
    brush.gradient((225, 110, 85), (45, 50, 120), horizon, 1)
    for step in range(6):
        y, half = horizon + 0.03 + step * 0.065, radius * (1.0 - step * 0.12) * random.uniform(0.75, 1.1)
        brush.box(x - half, y, x + half, y + 0.022, (255, 215, 120))
    extra = ""
    if random.random() < 0.3 and "sailboat" in brush.icons:
        brush.icon("sailboat", x + random.choice([-0.27, 0.27]), horizon - 0.02, 0.26)
        extra = " with a sailboat"
    sea = _chosen(random, ["ocean", "ocean", "sea", "water"])
    kind = _chosen(random, ["a", "a", "a beautiful", "a warm", ""])
    return f"{kind} {name} over the {sea}{extra}".strip()


def city(brush: Brush, random: Random) -> str:
    """Towers with lit windows. Cyberpunk: in pink and turquoise light."""
    style = _chosen(random, ["night", "night", "cyberpunk", "cyberpunk", "day"])
    night = style != "day"
    top, bottom = {"night": SKIES["at night"], "cyberpunk": ((30, 8, 60), (190, 40, 150)), "day": SKIES["by day"]}[
        style
    ]
    brush.gradient(top, bottom)
    if night:
        brush.stars(random, 0.4, 12)
        brush.moon(random.uniform(0.12, 0.88), 0.14, 0.085, top if random.random() < 0.4 else None)
    else:
        brush.disc(random.uniform(0.12, 0.88), 0.14, 0.09, (255, 225, 80))
    walls: Sequence[Colour] = {
        "night": ((38, 44, 70), (55, 62, 92), (28, 32, 54)),
        "cyberpunk": ((30, 18, 62), (48, 26, 88), (20, 12, 44)),
        "day": ((150, 165, 185), (120, 140, 170), (185, 170, 160)),
    }[style]
    lights: Sequence[Colour] = {
        "night": ((255, 220, 110), (255, 240, 170)),
        "cyberpunk": ((255, 60, 190), (60, 235, 250), (255, 230, 90)),
        "day": ((225, 240, 250), (90, 120, 160)),
    }[style]
    left = -0.05
    while left < 1:
        width, roof = random.uniform(0.14, 0.22), random.uniform(0.25, 0.62)
        brush.box(left, roof, left + width, 1, walls[int(random.integers(len(walls)))])
        light = lights[int(random.integers(len(lights)))]
        for row in np.arange(roof + 0.04, 0.97, 0.085):
            for column in np.arange(left + 0.03, left + width - 0.03, 0.06):
                if random.random() < 0.62:
                    brush.box(column, row, column + 0.028, row + 0.042, light)
        left += width + random.uniform(-0.01, 0.03)
    noun = _chosen(random, ["city", "city", "cityscape", "city skyline"])
    if style == "day":
        return f"a {noun} {_chosen(random, ['by day', 'in the daytime', 'under a blue sky'])}"
    if style == "cyberpunk":
        kind = _chosen(random, ["a cyberpunk", "a cyberpunk", "a neon", "a futuristic", "cyberpunk"])
        return f"{kind} {noun}{_chosen(random, [' at night', ' at night', ' with neon lights', ''])}"
    return f"{_chosen(random, ['a', 'a', 'a beautiful', 'a big', ''])} {noun} at night".strip()


def castle_in_the_clouds(brush: Brush, random: Random) -> str:
    time = _chosen(random, ["by day", "by day", "by day", "at sunset", "at night"])
    brush.gradient(*SKIES[time])
    if time == "at night":
        brush.stars(random, 0.6, 14)
    white: Colour = {"by day": (255, 255, 255), "at sunset": (255, 215, 205), "at night": (150, 160, 205)}[time]
    for _ in range(3):
        brush.cloud(random.random(), random.uniform(0.1, 0.4), random.uniform(0.2, 0.35), white)
    colour = _chosen(random, ["", "", "", "", "pink", "purple", "white", "yellow"])
    x = random.uniform(0.42, 0.58)
    brush.icon("castle", x, 0.46, random.uniform(0.6, 0.7), colour=colour or None)
    for cloud in (0.1, 0.4, 0.65, 0.95):
        brush.cloud(cloud + random.uniform(-0.05, 0.05), random.uniform(0.8, 0.88), random.uniform(0.45, 0.6), white)
    brush.box(0, 0.93, 1, 1, white)
    kind = _chosen(random, ["fantasy castle", "a castle", "a fantasy castle", "castle", "a magical castle"])
    if colour:
        kind = f"a {colour} castle"
    return f"{kind} {_chosen(random, ['in the clouds', 'in the clouds', 'in the sky', 'above the clouds'])}" + (
        "" if time == "by day" else f" {time}"
    )


def dragon_breathing_fire(brush: Brush, random: Random) -> str:
    ground = _chosen(random, ["", "", "at night", "black background", "gray background", "blue background"])
    if ground == "at night":
        brush.gradient(*SKIES["at night"])
        brush.stars(random, 0.5, 12)
    else:
        plain = COLOURS[ground.split()[0]] if ground else (255, 255, 255)
        brush.gradient(plain, plain)
    colour = _chosen(random, ["", "", "", "red", "blue", "purple", "black"])
    if ground.startswith(colour) and colour:
        colour = ""
    label = _chosen(random, ["dragon", "dragon", "dragon face"])
    side, flip = random.uniform(0.62, 0.7), random.random() < 0.3
    x, mouth = 0.99 - side / 2, (0.27 if label == "dragon" else 0.55)
    y = random.uniform(0.5, 0.6)
    fire_side = random.uniform(0.36, 0.44)
    fire_x, fire_y = 0.02 + fire_side * 0.5, y + (mouth - 0.5) * side + (0.08 if label == "dragon" else 0.12) * side
    brush.icon(label, 1 - x if flip else x, y, side, flip=flip, colour=colour or None)
    brush.icon("fire", 1 - fire_x if flip else fire_x, fire_y, fire_side, turn=-90 if flip else 90)
    kind = _chosen(random, ["a dragon", "a dragon", "a mystical dragon", "dragon", "a fantasy dragon"])
    if colour:
        kind = f"a {colour} dragon"
    return f"{kind} breathing fire" + (f" {'' if ground == 'at night' else 'on a '}{ground}" if ground else "")


def in_a_place(brush: Brush, random: Random, label: str, noun: str, colour: str | None = None) -> str:
    """One icon in a simple place: a forest, a beach, snow, space, under water, a meadow."""
    place = _chosen(random, ["forest", "beach", "snow", "night sky", "water", "meadow"])
    if place == "forest":
        brush.gradient((120, 180, 120), (60, 125, 70))
        for x in (0.08, 0.3, 0.52, 0.74, 0.95):
            x, top = x + random.uniform(-0.05, 0.05), random.uniform(0.0, 0.2)
            brush.polygon(
                [(x - 0.17, 0.75), (x, top), (x + 0.17, 0.75)], _shade((30, 100, 55), random.uniform(0.8, 1.2))
            )
        brush.box(0, 0.74, 1, 1, (95, 150, 65))
        words = "in a forest"
    elif place == "beach":
        brush.gradient((110, 195, 250), (200, 235, 255), 0, 0.5)
        brush.box(0, 0.48, 1, 0.72, (45, 140, 215))
        brush.box(0, 0.7, 1, 1, (245, 220, 150))
        brush.disc(random.uniform(0.1, 0.9), 0.13, 0.09, (255, 225, 80))
        words = "on the beach"
    elif place == "snow":
        brush.gradient((150, 185, 220), (215, 230, 245), 0, 0.65)
        brush.box(0, 0.62, 1, 1, (250, 252, 255))
        for x, y in random.random((25, 2)):
            brush.disc(x, y, 0.014, (255, 255, 255))
        words = "in the snow"
    elif place == "night sky":
        brush.gradient((10, 12, 45), (35, 35, 90))
        brush.stars(random, 1.0, 26)
        words = _chosen(random, ["in the night sky", "in space"])
    elif place == "water":
        brush.gradient((70, 180, 230), (10, 60, 130))
        for x, y in random.random((9, 2)):
            brush.disc(x, y, random.uniform(0.012, 0.03), (190, 230, 250), 150)
        words = "under water"
    else:
        brush.gradient((120, 200, 250), (215, 240, 255), 0, 0.6)
        brush.box(0, 0.58, 1, 1, (110, 185, 75))
        for x in random.uniform(0, 1, 8):
            brush.disc(
                x,
                random.uniform(0.65, 0.97),
                0.018,
                ((255, 90, 110), (255, 230, 90), (255, 255, 255))[int(random.integers(3))],
            )
        words = "in a meadow"
    floating = place in ("night sky", "water")
    side = random.uniform(0.5, 0.66)
    y = 0.5 + random.uniform(-0.06, 0.06) if floating else 0.92 - side / 2
    brush.icon(label, 0.5 + random.uniform(-0.12, 0.12), y, side, colour=colour)
    return f"{noun} {words}"


SCENES: dict[str, Callable[[Brush, Random], str]] = {
    scene.__name__: scene for scene in (landscape, sunset, city, castle_in_the_clouds, dragon_breathing_fire)
}


@dataclass(frozen=True)
class Hair:
    """An icon whose hair is of one colour, so that it can be dyed without painting the face."""

    label: str
    nouns: tuple[str, ...]


HAIR = (
    Hair("girl", ("a girl", "anime girl", "girl", "a young girl")),
    Hair("woman", ("a woman", "a girl", "anime girl", "a lady")),
    Hair("princess", ("a princess", "anime princess")),
)

HAIR_COLOURS: dict[str, Colour] = {
    "twemoji": (255, 172, 51),
    "noto": (109, 76, 65),
    "noto-v1": (109, 76, 65),
    "fluent-flat": (125, 69, 51),
}
"""sRGB of the hair of these icons in each style. In the other styles it has several colours, and is not dyed."""


def dyed(pixels: Pixels, style: str, colour: Colour) -> Pixels:
    """(height, width, 4) of one of these icons with other hair. The skin is lighter and keeps its colour."""
    changed = pixels.copy()
    changed[np.abs(pixels[..., :3].astype(int) - HAIR_COLOURS[style]).sum(axis=-1) < 75, :3] = colour
    return changed
