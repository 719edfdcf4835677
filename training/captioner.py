"""Train the captioner: ``python -m training.captioner [--config training/captioner.toml] [--detach]``.

It says first what it will cost; it can be ended at any time and goes on when it is started again.
``python -m training.captioner_scores`` measures the result.
"""

import json
import logging
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from illustrious.types import Noun
from illustrious.vision.classifier.captioner import Answers, Captioner, CaptionerConfig, interpret, normalise
from illustrious.vision.drawing import SEVERAL, Thing, described
from training import model, run
from training.colours import COLOURS
from training.concepts import STARTER, plural
from training.export import write_checksums
from training.icons import Icon, groups, load_icons
from training.learner import Learner, Schedule
from training.names import SCENE, coloured, counted, kind, name
from training.recognition import Verdict, sure_from
from training.sheet import arrange
from training.specimens import AMOUNTS, APART, SCENE_THINGS, Shares, Specimen, Specimens, Truth, kept_apart

log = logging.getLogger("training")

SHOWN = 24
UNASKED = -100
"""The target of an answer that is not asked for: cross entropy leaves it out."""


class Recipe(Noun):
    """``styles``: learned from, the main one first; ``measured``: a style that is not. ``vocabulary``: all things that
    are drawn in these styles, or those of ``training.concepts.STARTER``, with all others told as nothing.

    ``redrawn``: the share of pictures that go through the autoencoder of ``starter``, as what it draws did.
    ``others``: what the colour, the ground and the amount weigh in the loss, each beside the thing's 1. ``precision``:
    of what is said outright, the share that is to be right. ``settled``, ``set``: pictures on which the batch
    statistics and the probabilities are set in the end.
    """

    size: int = 64
    styles: tuple[str, ...] = ("twemoji", "noto", "noto-v1", "fxemoji")
    measured: str = "fluent-flat"
    vocabulary: Literal["starter", "all"] = "all"
    shares: Shares = Field(default_factory=Shares)
    starter: Path | None = Path("src/illustrious/data/starter")
    redrawn: float = 0.03
    channels: tuple[int, ...] = (24, 48, 96, 192)
    samples: int = 100_000
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.6
    floor: float = 0.02
    weight_decay: float = 0.02
    ema: float = 0.998
    smoothing: float = 0.02
    others: float = 0.3
    precision: float = 0.9
    settled: int = 1024
    set: int = 2048
    arithmetic: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0
    checkpoint_minutes: float = 5.0
    sheet_every: int = 50_000

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            steps=-(-self.samples // self.batch),
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            decay=self.decay,
            floor=self.floor,
            ema=self.ema,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True, eq=False)
class Material:
    """``names``: label → what it is called; ``kinds``: label → what it is at all."""

    icons: list[Icon]
    names: dict[str, str]
    kinds: dict[str, str]

    @property
    def paintable(self) -> frozenset[str]:
        return frozenset(label for label in self.names if coloured(label, self.kinds[label]))

    def things(self, vocabulary: Literal["starter", "all"]) -> tuple[Thing, ...]:
        """What is drawn, by name, and the scenes after it."""
        wanted = {self.names[label] for label in STARTER if label in self.names}
        found: dict[str, Thing] = {}
        for label in sorted({icon.label for icon in self.icons if icon.label in self.names}):
            noun, kind = self.names[label], self.kinds[label]
            if vocabulary == "all" or noun in wanted:
                found.setdefault(
                    noun,
                    Thing(
                        one=noun,
                        many=plural(noun) if counted(noun) else noun,
                        kind=kind,
                        counted=counted(noun),
                        coloured=label in self.paintable,
                    ),
                )
        scenes = [Thing(one=noun, many=noun, kind=SCENE, coloured=False, scene=True) for noun in SCENE_THINGS.values()]
        return (*(found[noun] for noun in sorted(found)), *scenes)


def material(styles: Iterable[str], size: int, cache: Path) -> Material:
    known = groups(cache)
    named = {label: name(label, known) for label in known}
    names = {label: noun for label, noun in named.items() if noun}
    return Material(load_icons(styles, size, cache), names, {label: kind(*group) for label, group in known.items()})


class CaptionerTrainer:
    def __init__(self, recipe: Recipe, material: Material, accelerator: Accelerator) -> None:
        self.batch = recipe.batch
        self.material = material
        self.recipe = recipe.model_dump(mode="json")
        self._recipe = recipe
        self._device = accelerator.device
        learned, self._kept = kept_apart(material.icons, material.names, recipe.styles[0])
        self._specimens = self._drawn_from(learned, recipe.shares)
        self.config = CaptionerConfig(
            size=recipe.size,
            channels=recipe.channels,
            things=material.things(recipe.vocabulary),
            colours=tuple(COLOURS),
            grounds=(*COLOURS, SEVERAL),
            amounts=AMOUNTS,
        )
        torch.manual_seed(recipe.seed)
        self.network = Captioner(self.config).to(self._device, memory_format=torch.channels_last).train()
        self.learner = Learner(self.network, recipe.schedule, accelerator)
        self._starter = model.load(recipe.starter) if recipe.starter and recipe.redrawn else None
        if self._starter:
            self._starter.vae.requires_grad_(False).eval().to(self._device)

    def _drawn_from(self, icons: Sequence[Icon], shares: Shares, unseen: bool = False) -> Specimens:
        recipe, material = self._recipe, self.material
        return Specimens(icons, material.names, recipe.size, shares, recipe.seed, material.paintable, unseen)

    def loss(self, step: int) -> Tensor:
        """The cross entropy of all answers."""
        specimens = self._batch(step * self.batch, self.batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.arithmetic == "bfloat16"):
            answers = self.network(self._pictures(specimens, step))
        thing, *others = self._targets(specimens)
        loss = functional.cross_entropy(answers.thing.float(), thing, label_smoothing=self._recipe.smoothing)
        for logits, target in zip(answers[1:], others, strict=True):
            # With nothing to ask in the whole batch the mean would be of none.
            asked = (target != UNASKED).sum().clamp(min=1)
            error = functional.cross_entropy(logits.float(), target, ignore_index=UNASKED, reduction="sum") / asked
            loss = loss + self._recipe.others * error
        return loss

    def _batch(self, first: int, count: int) -> list[Specimen]:
        return [self._specimens.specimen(first + place) for place in range(count)]

    def _pictures(self, specimens: Sequence[Specimen], step: int) -> Tensor:
        """(n, 3, size, size) from −1 to 1, the first of them redrawn by the starter's autoencoder."""
        pixels = torch.from_numpy(np.stack([specimen.pixels for specimen in specimens])).to(self._device)
        pictures = normalise(pixels).contiguous(memory_format=torch.channels_last)
        count = round(self._recipe.redrawn * len(pictures)) if self._starter else 0
        if count:
            pictures[:count] = self._redrawn(pictures[:count], step)
        return pictures

    @torch.no_grad()
    def _redrawn(self, pictures: Tensor, step: int) -> Tensor:
        assert self._starter is not None
        size = (self._starter.size,) * 2
        latents = self._starter.latents(functional.interpolate(pictures, size, mode="bilinear"))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step)).to(latents.device)
        scaled = (latents + 0.1 * noise) / self._starter.vae.config.scaling_factor
        drawn = self._starter.vae.decode(scaled).sample.clamp(-1, 1)
        return functional.interpolate(drawn, pictures.shape[-2:], mode="area")

    def _targets(self, specimens: Sequence[Specimen]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, things + 1) shares, and (n,) numbers of the other answers' words."""
        places = {thing.one: place for place, thing in enumerate(self.config.things)}
        thing = torch.zeros(len(specimens), len(places) + 1)
        for row, specimen in enumerate(specimens):
            for noun in specimen.truth.things or ("",):
                thing[row, places.get(noun, len(places))] += 1 / max(len(specimen.truth.things), 1)
        words = (self.config.colours, self.config.grounds, self.config.amounts)
        told = [(each.truth.colour, each.truth.ground, each.truth.amount) for each in specimens]
        colour, ground, amount = (
            torch.tensor([known.index(word) if word else UNASKED for word in said])
            for known, said in zip(words, zip(*told, strict=True), strict=True)
        )
        on = self._device
        return thing.to(on), colour.to(on), ground.to(on), amount.to(on)

    @torch.no_grad()
    def settle(self) -> None:
        """Measure the batch statistics of the weights as they are: what trained with them were others at every step."""
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over what follows
        self.network.train()
        for first in range(0, self._recipe.settled, self.batch):
            self.network(self._pictures(self._batch(APART + first, self.batch), first))
        for norm in norms:
            norm.momentum = 0.1
        self.network.eval()

    @torch.no_grad()
    def answers(self, specimens: Sequence[Specimen]) -> Answers:
        parts = [self.network(self._pictures(specimens[at : at + 256], 0)) for at in range(0, len(specimens), 256)]
        return Answers(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def set_probabilities(self) -> None:
        """On drawings and combinations that were kept apart: temperatures, and from where on the captioner is sure."""
        shares = replace(self._recipe.shares, hair=0, scene=0)
        source = self._drawn_from(self._kept, shares, unseen=True) if self._kept else self._specimens
        specimens = [source.specimen(APART + place) for place in range(self._recipe.set)]
        answers, targets = self.answers(specimens), self._targets(specimens)
        found = [temperature(logits, target) for logits, target in zip(answers, targets, strict=True)]
        self.config = self.config.model_copy(update={"temperatures": tuple(found)})
        judged = [
            Verdict(drawing, known(specimen.truth, self.config.things))
            for drawing, specimen in zip(interpret(answers, self.config), specimens, strict=True)
        ]
        self.config = self.config.model_copy(update={"sure_from": round(sure_from(judged, self._recipe.precision), 3)})
        log.info("temperatures %s, sure from %.2f", [round(value, 2) for value in found], self.config.sure_from)

    def show(self, file: Path) -> None:
        """Pictures, and what is said of them."""
        self.settle()
        specimens = self._batch(APART, SHOWN)
        said = [described(drawing) for drawing in interpret(self.answers(specimens), self.config)]
        self.network.train()
        file.parent.mkdir(parents=True, exist_ok=True)
        short = [sentence.removeprefix("It looks like a drawing of ") for sentence in said]
        arrange([Image.fromarray(specimen.pixels) for specimen in specimens], short, 8).save(file)


def known(truth: Truth, things: Iterable[Thing]) -> Truth:
    """What is right to say with this vocabulary: of a thing outside it, nothing."""
    return truth if {thing.one for thing in things}.issuperset(truth.things) else Truth()


@torch.no_grad()
def temperature(logits: Tensor, target: Tensor) -> float:
    """What logits are to be divided by so that the probabilities are as likely as can be (Guo et al., 2017)."""
    tried = torch.logspace(-0.5, 0.7, 49).tolist()
    if target.dim() == 1:
        logits, target = logits[target != UNASKED], target[target != UNASKED]
    if not len(target):
        return 1.0
    return float(min(tried, key=lambda value: functional.cross_entropy(logits.float() / value, target).item()))


def finish(trainer: CaptionerTrainer, folder: Path) -> None:
    """Write the captioner as the studio loads it, with its averaged weights in float16."""
    with trainer.learner.averaged():
        trainer.settle()
        trainer.set_probabilities()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            key: tensor.half().contiguous() if tensor.is_floating_point() else tensor
            for key, tensor in trainer.network.state_dict().items()
        }
        save_file(weights, folder / "model.safetensors")
    config = trainer.config.model_dump(mode="json", exclude_defaults=True)
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    write_checksums(folder)
    log.info("the captioner is in %s", folder)


def read(file: Path) -> Recipe:
    """Raises ``pydantic.ValidationError`` for an unknown or ill-typed entry, ``tomllib.TOMLDecodeError`` for no
    TOML."""
    return Recipe.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def main(words: list[str]) -> int:
    parser = run.arguments("Train the captioner.", Path("training/runs/captioner"))
    parser.set_defaults(config=Path("training/captioner.toml"))
    options = parser.parse_args(words)
    if not run.prepare(options, "training.captioner", words, alone=True):
        return 0
    recipe = read(options.config)
    if options.samples:
        recipe = recipe.model_copy(update={"samples": options.samples})
    trainer = CaptionerTrainer(recipe, material(recipe.styles, recipe.size, options.cache), run.accelerator())
    run.begin(trainer, options.run)
    stop = run.Stop().listen()
    if not run.complete(trainer, options.run, stop, recipe.checkpoint_minutes, recipe.sheet_every):
        return 0
    finish(trainer, options.run / "captioner")
    with trainer.learner.averaged():
        trainer.show(options.run / "sheets" / "final.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
