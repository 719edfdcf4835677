"""Score image models: ``python -m training.score FOLDER [FOLDER …]``, each in diffusers' layout.

Every model draws the held-out prompts in plain diffusers. A judge that learned from other icon styles looks for the
right caption among fifty; colours, backgrounds and counts are told by the pixels. True pictures of the same prompts are
scored beside them, which no model can be expected to beat; their distance from the same in a style that the model never
saw says what such a distance means. The table is printed as Markdown; pictures and figures go to ``--run``.
"""

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from training import run
from training.captions import altered, words
from training.checks import ground_colour, thing_colour, things
from training.concepts import ADDED, FIRST, STARTER, nouns, plural
from training.config import FewStepsConfig
from training.icons import Pixels, load_icons
from training.matcher import JUDGE, SIZE, Judge, reduced
from training.prompts import FOUNDING, Prompt, held_out_prompts, true_picture
from training.sheet import arrange, draw_all

log = logging.getLogger("training")

AMONG = 50
"""Captions a picture's own is looked for among; half of the others differ from it in one phrase."""

NEARLY = 5
"""Of how many likeliest captions one is to be right for the picture to be nearly right."""

NORMAL = 1.959964
"""Of a normal distribution 95 % is within so many standard deviations."""

REFERENCES = {
    "twemoji": "Fréchet distance from true pictures, their icons trained on",
    "noto": "Fréchet distance from the same in Noto, never trained on",
}
"""Style → the row that compares with true pictures in it. What is held out is how icons are put together; the starter
learned the icons themselves from the first, and none from the second."""

CHECKS: dict[str, Callable[..., str | int]] = {"colour": thing_colour, "ground": ground_colour, "count": things}


@dataclass(frozen=True)
class Answer:
    """What one picture was found to be. ``chosen``: the caption it was given. ``place``: of the right one among all, 1
    being the likeliest. ``found``: by the pixels, of what the prompt asks for."""

    prompt: Prompt
    chosen: str
    place: int
    found: str | int

    @property
    def right(self) -> bool:
        return self.place == 1

    @property
    def nearly(self) -> bool:
        return self.place <= NEARLY

    @property
    def kept(self) -> bool:
        return self.found == self.prompt.answer


@dataclass(frozen=True)
class Share:
    """Of 0 … 1, its 95 % interval, and of how many prompts."""

    value: float
    low: float
    high: float
    prompts: int

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f} … {100 * self.high:.0f}]"


def choices(prompt: Prompt, others: Sequence[Prompt]) -> list[str]:
    """The prompt's caption and 49 wrong ones: half nearly right, half of other prompts. The same at every call."""
    random = np.random.default_rng(list(prompt.caption.encode()))
    true = {words(caption) for caption in synonyms(prompt)}
    found = {prompt.caption: None}  # for its order
    for _ in range(400):
        if len(found) <= AMONG // 2:
            found[altered(prompt.caption, random)] = None
    # Left out afterwards, so that all else is drawn as it would be with them.
    found = {caption: None for caption in found if caption == prompt.caption or words(caption) not in true}
    for place in random.permutation(len(others)):
        if len(found) < AMONG and words(others[place].caption) not in true:
            found[others[place].caption] = None
    return list(found)


def synonyms(prompt: Prompt) -> set[str]:
    """The caption with each of its things by all its nouns; nonsense among them, where one noun is in another.

    >>> sorted(synonyms(Prompt("two gems", "count", ("gem stone",))))
    ['two diamonds', 'two gem stones', 'two gems']
    """
    said = {prompt.caption}
    for names in map(nouns, prompt.labels):
        for forms in (names, tuple(map(plural, names))):
            said |= {caption.replace(one, other) for caption in said for one in forms for other in forms}
    return said


def answers(
    judge: Judge, prompts: Sequence[Prompt], pictures: Sequence[Pixels], others: Sequence[Prompt]
) -> list[Answer]:
    """Of each (64, 64, 3) picture, drawn for the prompt of the same place. ``others``: where wrong captions are taken
    from."""
    found = []
    for prompt, picture, features in zip(prompts, pictures, judge.features(pictures), strict=True):
        check = CHECKS.get(prompt.asked)
        ranked = judge.ranked(features, choices(prompt, others))
        place = ranked.index(prompt.caption) + 1
        found.append(Answer(prompt, ranked[0], place, check(picture) if check else ""))
    return found


def share(found: Iterable[tuple[Prompt, bool]]) -> Share:
    """Of the true ones, with Wilson's score interval ("Probable Inference, the Law of Succession, and Statistical
    Inference", 1927): unlike a bootstrap it has a width where all are right.

    Pictures of one prompt count together as one trial, for they are alike. Their share varies no more than a single
    picture does, and kinds are asked for in fixed numbers, so the interval is rather too wide than too narrow.
    """
    by_prompt: dict[str, list[bool]] = {}
    for prompt, good in found:
        by_prompt.setdefault(prompt.caption, []).append(good)
    value, count = float(np.mean([np.mean(each) for each in by_prompt.values()])), len(by_prompt)
    middle = (value + NORMAL**2 / (2 * count)) / (1 + NORMAL**2 / count)
    half = NORMAL * math.sqrt(value * (1 - value) / count + (NORMAL / (2 * count)) ** 2) / (1 + NORMAL**2 / count)
    return Share(value, max(0.0, middle - half), min(1.0, middle + half), count)


def frechet(one: Tensor, other: Tensor) -> float:
    """The Fréchet distance of two sets of (n, width) features taken as normally distributed (Heusel et al., "GANs
    Trained by a Two Time-Scale Update Rule", 2017)."""
    means, spreads = zip(*((each.double().mean(0), each.double().T.cov()) for each in (one, other)), strict=True)
    common = torch.linalg.eigvals(spreads[0] @ spreads[1]).real.clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + spreads[0].trace() + spreads[1].trace() - 2 * common
    return float(distance)


SETS = {
    "first": f"the {len(FIRST)} things of the first starter",
    "added": f"the {len(ADDED)} things added since",
    "founding": "the founding document's examples",
}
KINDS = {"colour": "in a colour", "ground": "on a background", "count": "two to four of it", "": "two things"}
PIXELS = {"colour": "the colour is it", "ground": "the background is it", "count": "the number is it"}
"""What a prompt of each ``Prompt.asked`` is about, and what its check says."""

Figures = dict[str, Share | float]
"""Row of the table → what is in it."""


class Scorer:
    """``prompts``: set → its prompts. ``truth``: of ``REFERENCES``, a true picture for each prompt, in order."""

    def __init__(self, judge: Judge, prompts: dict[str, list[Prompt]], truth: dict[str, Sequence[Pixels]]) -> None:
        self._judge = judge
        self._prompts = prompts
        self._truth = {style: judge.features(pictures) for style, pictures in truth.items()}

    def answers(self, pictures: Sequence[Pixels]) -> dict[str, list[Answer]]:
        """Set → what was found in its pictures. They are in the prompts' order."""
        everything = [prompt for of_set in self._prompts.values() for prompt in of_set]
        found, rest = {}, iter(pictures)
        for name, prompts in self._prompts.items():
            others = everything if name == "founding" else prompts
            found[name] = answers(self._judge, prompts, list(islice(rest, len(prompts))), others)
        return found

    def figures(self, pictures: Sequence[Pixels]) -> Figures:
        figures: Figures = {}
        features, first = self._judge.features(pictures), 0
        for name, found in self.answers(pictures).items():
            figures[f"**{SETS[name]}**"] = share((one.prompt, one.right) for one in found)
            figures[f"{name}: among the first {NEARLY}"] = share((one.prompt, one.nearly) for one in found)
            of_set = slice(first, first := first + len(found))
            if name == "founding":
                continue
            by_kind = {asked: [one for one in found if one.prompt.asked == asked] for asked in KINDS}
            for asked, those in by_kind.items():
                figures[f"{name}: {KINDS[asked]}"] = share((one.prompt, one.right) for one in those)
            for asked, said in PIXELS.items():
                figures[f"{name}: {said}, by the pixels"] = share((one.prompt, one.kept) for one in by_kind[asked])
            for style, truth in self._truth.items():
                figures[f"{name}: {REFERENCES[style]}"] = frechet(features[of_set], truth[of_set])
        return figures


def table(columns: dict[str, Figures]) -> str:
    """Markdown: a column for each of the pictures' makers, and before them of how many prompts a share is."""
    lines = [f"| right caption among {AMONG} | n | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for row, first in next(iter(columns.values())).items():
        count = first.prompts if isinstance(first, Share) else ""
        cells = [
            f"{value:.1f}" if isinstance(value := figures[row], float) else str(value) for figures in columns.values()
        ]
        lines.append(f"| {row} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told_apart(folders: Sequence[Path]) -> list[str]:
    """A name for each: as many of the last parts of its path as it takes for all to differ.

    >>> told_apart([Path("runs/first/model"), Path("runs/image/model")])
    ['first/model', 'image/model']
    """
    parts = [folder.resolve().parts[1:] for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("A model is named twice; name each folder once.")


def drawn(
    folder: Path, prompts: Sequence[Prompt], device: torch.device, few_steps: Path | None = None
) -> list[Image.Image]:
    """By plain diffusers, 20 steps with a guidance of 5, at the model's own size; with the LoRA ``few_steps`` in 4
    steps, without guidance."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    captions = [prompt.caption for prompt in prompts]
    if few_steps is None:
        return draw_all(pipeline, captions)
    pipeline.load_lora_weights(few_steps.parent, weight_name=few_steps.name)
    return draw_all(pipeline, captions, steps=FewStepsConfig().steps, guidance=1.0)


def keep(folder: Path, pictures: Sequence[Image.Image], found: Sequence[Answer]) -> None:
    """Each picture, a sheet of some, and what was found in all."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, picture in enumerate(pictures):
        picture.save(folder / f"{place:04d}.png")
    shown = range(0, len(pictures), -(-len(pictures) // 64))
    captions = [found[place].prompt.caption for place in shown]
    arrange([pictures[place] for place in shown], captions, 8).save(folder / "sheet.png")
    (folder / "answers.json").write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")


def _plain(value: Share | float) -> dict[str, float] | float:
    return value if isinstance(value, float) else asdict(value)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Score image models.")
    parser.add_argument("folders", nargs="+", type=Path, help="models in diffusers' layout")
    parser.add_argument("--run", type=Path, default=Path("training/runs/score"), help="folder of pictures and figures")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="folder of rendered icons")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="default: the one that is shipped")
    parser.add_argument("--each", type=int, default=40, help="prompts of each kind (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    parser.add_argument("--few-steps", type=Path, help="a LoRA of the first model, to draw with in 4 steps as well")
    parser.add_argument("--threads", type=int, help="processor threads (default: all)")
    options = parser.parse_args(arguments)
    try:
        names = told_apart(options.folders)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if options.threads:
        torch.set_num_threads(options.threads)
    sets = {
        "first": held_out_prompts(FIRST, options.each) * options.copies,
        "added": held_out_prompts(ADDED, options.each) * options.copies,
        "founding": [*FOUNDING] * 4 * options.copies,
    }
    prompts = [prompt for of_set in sets.values() for prompt in of_set]
    log.info("making %d true pictures, three times", len(prompts))

    def made(style: str, seed: int) -> list[Pixels]:
        icons = load_icons([style], SIZE, options.cache, STARTER)
        return [true_picture(prompt, icons, SIZE, seed + place) for place, prompt in enumerate(prompts)]

    truth = {style: made(style, place * len(prompts)) for place, style in enumerate(REFERENCES)}
    scorer = Scorer(Judge.load(options.judge), sets, truth)
    columns = {"true pictures": scorer.figures(made("twemoji", len(REFERENCES) * len(prompts)))}
    asked: list[tuple[str, Path, Path | None]] = [
        (name, folder, None) for name, folder in zip(names, options.folders, strict=True)
    ]
    if options.few_steps:
        asked.insert(1, (f"{names[0]}, few steps", options.folders[0], options.few_steps))
    for name, folder, lora in asked:
        log.info("drawing %d pictures: %s", len(prompts), name)
        pictures = drawn(folder, prompts, run.accelerator().device, lora)
        small = [reduced(picture) for picture in pictures]
        columns[name] = scorer.figures(small)
        keep(options.run / name, pictures, [one for found in scorer.answers(small).values() for one in found])
    figures = {name: {row: _plain(value) for row, value in column.items()} for name, column in columns.items()}
    (options.run / "figures.json").write_text(json.dumps(figures, ensure_ascii=False, indent=1), encoding="utf-8")
    sys.stdout.write(table(columns) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
