"""The captioner's recipe in small: three shapes for icons, in two styles."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from training.captioner import CaptionerTrainer, Material, Recipe, finish, read, temperature
from training.icons import Icon
from training.run import Stop, train
from training.specimens import Shares, Specimens

from illustrious.errors import Unavailable
from illustrious.vision.classifier.captioner import Reader
from illustrious.vision.drawing import is_said
from tests.training import tiny
from training import checkpoint

CPU = Accelerator(cpu=True)
NAMES = {"red apple": "apple", "house": "house", "frog": "frog"}
KINDS = {"red apple": "something to eat", "house": "a building", "frog": "an animal"}


def recipe(steps: int) -> Recipe:
    shares = replace(Shares(), place=0, nothing=20, worn=0.2, grounds=(0.5, 0.5, 0, 0))
    return Recipe(
        size=32, styles=("twemoji", "noto"), shares=shares, starter=None, channels=(8, 16, 32), samples=16 * steps,
        batch=16, warmup=5, smoothing=0.0, ema=0.9, settled=64, set=200, arithmetic="float32",
    )  # fmt: skip


def trainer(steps: int) -> CaptionerTrainer:
    shapes = tiny.icons(32)
    again = [Icon(icon.label, (), "noto", np.rot90(icon.pixels).copy()) for icon in shapes]
    return CaptionerTrainer(recipe(steps), Material(shapes + again, NAMES, KINDS), CPU)


def test_it_learns_to_tell_three_shapes_and_writes_a_captioner_that_says_so(tmp_path: Path) -> None:
    made = trainer(steps=120)
    for _ in train(made, tmp_path / "run", Stop()):
        pass
    finish(made, tmp_path / "captioner")
    reader = Reader(tmp_path / "captioner")
    only = replace(recipe(1).shares, single=1, count=0, pair=0, hair=0, scene=0, nothing=0, worn=0)
    source = Specimens(tiny.icons(32), NAMES, 32, only, 9)
    made_of = [source.specimen(index) for index in range(60)]
    seen = [reader.read(specimen.pixels.tobytes()) for specimen in made_of]
    best = [
        drawing.guesses[0].thing.one == specimen.truth.things[0]
        for drawing, specimen in zip(seen, made_of, strict=True)
    ]
    assert np.mean(best) > 0.8
    said = [right for right, drawing in zip(best, seen, strict=True) if is_said(drawing)]
    assert said
    assert np.mean(said) >= np.mean(best)


def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole = trainer(steps=4)
    losses = list(train(whole, tmp_path / "whole", Stop()))
    halted = trainer(steps=4)
    running = train(halted, tmp_path / "halted", Stop())
    before = [next(running), next(running)]
    state = halted.learner.state()
    resumed = trainer(steps=4)
    checkpoint.save(tmp_path / "halted" / "checkpoints", state)
    found = checkpoint.newest(tmp_path / "halted" / "checkpoints")
    assert found is not None
    resumed.learner.resume(found)
    assert before + list(train(resumed, tmp_path / "resumed", Stop())) == losses


def test_a_sheet_shows_pictures_and_leaves_the_network_learning(tmp_path: Path) -> None:
    made = trainer(steps=1)
    made.show(tmp_path / "sheets" / "1.png")
    assert (tmp_path / "sheets" / "1.png").exists()
    assert made.network.training


def test_a_damaged_or_missing_file_is_not_loaded(tmp_path: Path) -> None:
    made = trainer(steps=1)
    finish(made, tmp_path)
    Reader(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(Unavailable, match=r"model\.safetensors is not what it was.*Install the studio again"):
        Reader(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"cannot be read.*Install the studio again"):
        Reader(tmp_path)


def test_a_temperature_makes_probabilities_as_likely_as_the_answers_are_right() -> None:
    """Of four answers alike in their logits, three are right: the best probability is three quarters."""
    logits = torch.tensor([[4.0, 0.0]] * 4)
    found = temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert (logits / found).softmax(dim=1)[0, 0].item() == pytest.approx(0.75, abs=0.02)
    assert temperature(logits, torch.full((4,), -100)) == 1.0


def test_the_recipe_is_read_and_its_network_is_small() -> None:
    shipped = read(Path("training") / "captioner.toml")
    assert shipped.measured not in shipped.styles
    made = CaptionerTrainer(shipped.model_copy(update={"starter": None}), Material(tiny.icons(64), NAMES, KINDS), CPU)
    assert sum(weight.numel() for weight in made.network.parameters()) < 1.2e6
