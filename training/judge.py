"""Train the judge of what image models draw: ``python -m training.judge [--detach]``.

It learns from icon styles that the starter image model never sees, all combinations among them. It says first what it
will cost, and goes on where it was ended.
"""

import json
import logging
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from illustrious.types import Noun
from training import run
from training.captions import ALTERNATIVES, altered, words
from training.compose import Composer, Mixture, Sample
from training.concepts import STARTER
from training.icons import Icon, load_icons
from training.learner import Learner, Schedule
from training.matcher import JUDGE, SIZE, Eye, Matcher, seen
from training.sheet import arrange

log = logging.getLogger("training")

SHOWN = 24
APART, MEASURED = 1 << 40, 1 << 41
"""The numbers of the first picture that is shown, and measured on; no run trains on that many."""

CHUNK = 500
"""Pictures that are looked at between two savings."""


class JudgeConfig(Noun):
    """``pictures`` different ones are looked at once, and ``samples`` of them seen in all. ``width``: of the vectors.
    ``altered``: captions nearly right that each picture is told from, beside those of the other pictures."""

    styles: tuple[str, ...] = ("noto", "fluent-flat", "noto-v1", "fxemoji")
    mixture: Mixture = Field(default_factory=Mixture)
    width: int = 64
    hidden: int = 256
    pictures: int = 4_500
    samples: int = 100_000
    batch: int = 250
    altered: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    dropout: float = 0.2
    seed: int = 0
    checkpoint_minutes: float = 5.0
    sheet_every: int = 50_000

    @property
    def schedule(self) -> Schedule:
        steps = -(-self.samples // self.batch)
        return Schedule(steps, self.learning_rate, warmup=30, decay=0.8, ema=0.98, weight_decay=self.weight_decay)


class JudgeTrainer:
    def __init__(self, config: JudgeConfig, icons: Sequence[Icon], accelerator: Accelerator) -> None:
        self.batch = config.batch
        self.recipe = config.model_dump(mode="json")
        self._config = config
        self._device = accelerator.device
        of_style = ([icon for icon in icons if icon.style == style] for style in config.styles)
        self._composers = [Composer(each, SIZE, config.mixture, config.seed, everything=True) for each in of_style]
        self._eye = Eye().to(self._device)
        self._captions: list[str] = []
        self._fields: list[Tensor] = []
        torch.manual_seed(config.seed)
        self.matcher = Matcher(self._vocabulary(), config.width, config.hidden, config.dropout).to(self._device)
        self.learner = Learner(self.matcher.train(), config.schedule, accelerator)

    def _vocabulary(self) -> list[str]:
        """The words of all nouns and of a few hundred captions."""
        captions = [phrase for group in ALTERNATIVES for phrase in group]
        captions += [self._sample(APART + index).caption for index in range(400)]
        return sorted({word for caption in captions for word in words(caption)})

    def _sample(self, index: int) -> Sample:
        return self._composers[index % len(self._composers)].sample(index)

    def look(self, folder: Path, stop: run.Stop) -> bool:
        """Look at all pictures, once; what was seen is kept in the folder. False when an end was asked for before."""
        count = self._config.pictures
        log.info("looking at %d pictures takes about %s", count, run.hours(count * self._seconds_a_picture()))
        captions, chunks = [], []
        for first in range(0, count, CHUNK):
            file = folder / f"{first:08d}.safetensors"
            if not file.exists():
                if stop:
                    log.info("ended after %d pictures; the same command goes on from here", first)
                    return False
                self._keep(file, range(first, min(first + CHUNK, count)))
                log.info("%d of %d pictures", min(first + CHUNK, count), count)
            with safe_open(file, "pt") as opened:
                captions += json.loads(opened.metadata()["captions"])
                chunks.append([opened.get_tensor(str(place)) for place in range(len(Eye.SHAPES))])
        self._captions = captions
        self._fields = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        return True

    def _seconds_a_picture(self) -> float:
        return run.timed(lambda turn: self._see([self._sample(APART + place) for place in range(10)]), repeats=1) / 10

    def _keep(self, file: Path, numbers: range) -> None:
        """Fields in float16, and captions, of the pictures of these numbers."""
        samples = [self._sample(number) for number in numbers]
        parts = [self._see(samples[first : first + 50], numbers[first]) for first in range(0, len(samples), 50)]
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        tensors = {str(place): torch.cat(each).half() for place, each in enumerate(zip(*parts, strict=True))}
        save_file(tensors, partial, {"captions": json.dumps([sample.caption for sample in samples])})
        partial.replace(file)

    def _see(self, samples: Sequence[Sample], disturbance: int | None = None) -> tuple[Tensor, ...]:
        """What the eye makes of them; disturbed, if a number to disturb them by is given."""
        pictures = seen([sample.pixels for sample in samples])
        if disturbance is not None:
            generator = torch.Generator().manual_seed((self._config.seed << 32) + disturbance)
            pictures = disturbed(pictures, generator)
        fields: tuple[Tensor, ...] = self._eye(pictures.to(self._device))
        return fields

    def loss(self, step: int) -> Tensor:
        """The cross-entropy of each picture's caption among all and those nearly right, and of each caption's picture
        among all."""
        seed, steps = self._config.seed, len(self._captions) // self.batch
        random = np.random.default_rng((seed, step // steps))
        chosen = random.permutation(len(self._captions))[step % steps * self.batch :][: self.batch]
        captions = [self._captions[place] for place in chosen]
        random = np.random.default_rng((seed, step, 1))
        offered = captions + [altered(caption, random) for _ in range(self._config.altered) for caption in captions]
        torch.manual_seed((seed << 32) + step)  # for the dropout
        fields = [field[chosen].float().to(self._device) for field in self._fields]
        likeness = self.matcher.likeness(self.matcher.features(fields), self.matcher.meanings(offered))
        also_true = torch.from_numpy(np.array(captions)[:, None] == np.array(offered)).fill_diagonal_(False)
        likeness = likeness.masked_fill(also_true.to(self._device), -torch.inf)
        own = torch.arange(len(captions), device=self._device)
        by_caption = likeness[:, : len(captions)].T
        return (functional.cross_entropy(likeness, own) + functional.cross_entropy(by_caption, own)) / 2

    @torch.no_grad()
    def chosen(self, first: int, count: int) -> tuple[list[Sample], list[str]]:
        """Pictures not trained on, and which of their captions the judge gives each."""
        samples = [self._sample(first + place) for place in range(count)]
        captions = [sample.caption for sample in samples]
        self.matcher.eval()
        likeness = self.matcher.likeness(self.matcher.features(self._see(samples)), self.matcher.meanings(captions))
        self.matcher.train()
        return samples, [captions[place] for place in likeness.argmax(dim=1)]

    def show(self, file: Path) -> None:
        """Pictures, and under each the caption of them all that it is given."""
        samples, chosen = self.chosen(APART, SHOWN)
        file.parent.mkdir(parents=True, exist_ok=True)
        arrange([Image.fromarray(sample.pixels) for sample in samples], chosen, 8).save(file)

    def accuracy(self, rounds: int = 6) -> float:
        """How often the right caption is found among fifty, in the styles trained on."""
        right = []
        for first in range(MEASURED, MEASURED + 50 * rounds, 50):
            samples, chosen = self.chosen(first, 50)
            right += [sample.caption == caption for sample, caption in zip(samples, chosen, strict=True)]
        return float(np.mean(right))


def disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Turned and moved a little, brighter or darker, noisy, and the first half of them blurred: what is drawn is never
    quite like an icon."""
    count = len(pictures)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, scale = between(-0.2, 0.2), between(0.9, 1.15)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack([cos, -sin, between(-0.08, 0.08), sin, cos, between(-0.08, 0.08)], dim=1)
    grid = functional.affine_grid(affine.reshape(count, 2, 3), list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    edge = int(torch.randint(28, 52, (), generator=generator))
    small = functional.interpolate(moved[: count // 2], size=(edge, edge), mode="area")
    blurred = functional.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    moved = torch.cat([blurred, moved[count // 2 :]])
    contrast, light, noise = (
        between(*limits)[:, None, None, None] for limits in ((0.9, 1.05), (-0.08, 0.08), (0, 0.08))
    )
    return (moved * contrast + light + noise * torch.randn(pictures.shape, generator=generator)).clamp(-1, 1)


def read(file: Path) -> JudgeConfig:
    """Raises ``pydantic.ValidationError`` for an unknown or ill-typed entry, ``tomllib.TOMLDecodeError`` for no
    TOML."""
    return JudgeConfig.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    parser = run.arguments("Train the judge of starter image models.", Path("training/runs/judge"))
    parser.set_defaults(config=Path("training/judge.toml"))
    options = parser.parse_args(arguments)
    if not run.prepare(options, "training.judge", arguments, alone=True):
        return 0
    config = read(options.config)
    if options.samples:
        config = config.model_copy(update={"samples": options.samples})
    trainer = JudgeTrainer(config, load_icons(config.styles, SIZE, options.cache, STARTER), run.accelerator())
    stop = run.Stop().listen()
    if not trainer.look(options.run / "seen", stop):
        return 0
    run.begin(trainer, options.run)
    if not run.complete(trainer, options.run, stop, config.checkpoint_minutes, config.sheet_every):
        return 0
    finish(trainer, options.run)
    return 0


def finish(trainer: JudgeTrainer, folder: Path) -> None:
    """Write the judge, with its averaged weights."""
    with trainer.learner.averaged():
        trainer.matcher.save(folder / JUDGE.name)
        trainer.show(folder / "sheets" / "final.png")
        log.info("the judge is in %s: %.1f %% right among 50", folder / JUDGE.name, 100 * trainer.accuracy())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
