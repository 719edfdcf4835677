"""Measure the captioner: ``python -m training.captioner_scores [--captioner FOLDER] [--photos FOLDER]``.

On a style that it never learned from, on pictures drawn by the starter model, on pictures of nothing and, where a
folder of photographs is given, on those.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from illustrious.vision.classifier import crop
from illustrious.vision.classifier.captioner import SHIPPED, Reader
from illustrious.vision.drawing import Drawing
from training import model
from training.captioner import Material, material, read
from training.concepts import FIRST, STARTER, with_article
from training.icons import Pixels
from training.recognition import Verdict, scores, verdicts
from training.sheet import draw_all
from training.specimens import Shares, Specimen, Specimens, Truth

PICTURES, FEWER = 3000, 1000
"""Of a row; fewer suffice where there is less to tell apart."""

ALONE = replace(Shares(), count=0, pair=0, place=0, hair=0, scene=0, nothing=0, starter=0)
"""One thing on a ground, each thing as often as any other."""

GROUNDS = ("red", "yellow", "green", "blue", "purple", "pink", "orange", "white", "gray", "black")
"""Of the pictures the starter model is asked for, one after another."""

DRAWN = 50


def mixtures(measured: str, shares: Shares) -> dict[str, tuple[Shares, int]]:
    """Row → what of the measured style is drawn for it, and how many. Scenes have their own: rules draw them, the same
    as those learned from, so that they say nothing of a style that was not."""
    return {
        f"{measured}, one thing": (ALONE, PICTURES),
        f"{measured}, all kinds of picture but scenes": (replace(shares, scene=0), PICTURES),
        "scenes, by the rules that it learned from": (replace(ALONE, single=0, scene=1), FEWER),
        "pictures of nothing": (replace(ALONE, single=0, nothing=1), FEWER),
    }


def starter_drawings(folder: Path, names: dict[str, str], size: int) -> Iterator[Specimen]:
    """``DRAWN`` pictures by the starter model in ``folder``: every other thing it knows, on a ground of its own."""
    labels = FIRST[:: len(FIRST) // DRAWN][:DRAWN]
    asked = [(names[label], GROUNDS[place % len(GROUNDS)]) for place, label in enumerate(labels)]
    drawing = model.load(folder)
    prompts = [f"{with_article(thing)} on a {ground} background" for thing, ground in asked]
    pictures = draw_all(drawing.pipeline(), prompts, told=drawing.size)
    for picture, (thing, ground) in zip(pictures, asked, strict=True):
        yield Specimen(np.asarray(crop(picture, size)), Truth((thing,), None, ground, "one"))


def photographs(folder: Path, size: int) -> Iterator[Specimen]:
    """The middle of each photograph, and its four quarters."""
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        for x, y, side in ((0.0, 0.0, 1.0), (0.0, 0.0, 0.5), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.5, 0.5, 0.5)):
            width, height = picture.size
            left, top = round(x * width), round(y * height)
            part = picture.crop((left, top, left + round(side * width), top + round(side * height)))
            yield Specimen(np.asarray(crop(part, size)), Truth())


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure the captioner.")
    parser.add_argument("--config", type=Path, default=Path("training/captioner.toml"), help="default: %(default)s")
    parser.add_argument("--captioner", type=Path, default=SHIPPED, help="folder to measure (default: the shipped one)")
    parser.add_argument(
        "--cache", type=Path, default=Path("training/cache"), help="folder of fetched and rendered icons"
    )
    parser.add_argument("--photos", type=Path, help="folder of photographs, none of which it should name")
    options = parser.parse_args(words)
    recipe, reader = read(options.config), Reader(options.captioner)
    unseen = material([recipe.measured], recipe.size, options.cache)
    starter = {unseen.names[label] for label in STARTER}

    def look(pictures: Sequence[Pixels]) -> list[Drawing]:
        return [reader.read(pixels.tobytes()) for pixels in pictures]

    def drawn(source: Material, shares: Shares, count: int) -> list[Verdict]:
        specimens = Specimens(source.icons, source.names, recipe.size, shares, 1, source.paintable, unseen=True)
        things = {thing.one for thing in reader.config.things}
        made = (specimens.specimen(index) for index in range(count))
        return verdicts(look, (specimen for specimen in made if things.issuperset(specimen.truth.things)))

    kinds = {thing.one: thing.kind for thing in reader.config.things}
    rows = {row: drawn(unseen, *asked) for row, asked in mixtures(recipe.measured, recipe.shares).items()}
    alone = rows[f"{recipe.measured}, one thing"]
    rows["of one thing, those the starter model is to know"] = [
        each for each in alone if each.truth.things[0] in starter
    ]
    learned = material(recipe.styles[:1], recipe.size, options.cache)
    rows[f"{recipe.styles[0]}, one thing, new combinations"] = drawn(learned, ALONE, FEWER)
    if recipe.starter:
        rows["drawn by the starter model"] = verdicts(look, starter_drawings(recipe.starter, unseen.names, recipe.size))
    if options.photos:
        rows["photographs"] = verdicts(look, photographs(options.photos, recipe.size))
    for row, judged in rows.items():
        sys.stdout.write(f"{row}: {scores(judged, kinds)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
