from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from training.judge import JudgeConfig, JudgeTrainer, disturbed, finish, read
from training.matcher import JUDGE, Judge, seen
from training.run import Stop, train

from tests.training import tiny
from training import config

CPU = Accelerator(cpu=True)
SMALL = JudgeConfig(styles=("twemoji",), width=16, hidden=32, pictures=120, samples=40 * 90, batch=40)


def test_it_learns_whose_caption_is_whose_and_is_the_same_when_read_back(tmp_path: Path) -> None:
    trainer = JudgeTrainer(SMALL, tiny.icons(64), CPU)
    assert trainer.look(tmp_path / "seen", Stop())
    before = trainer.accuracy(rounds=2)
    for _ in train(trainer, tmp_path, Stop()):
        pass
    finish(trainer, tmp_path)
    assert trainer.accuracy(rounds=2) > before + 0.15
    read_back = Judge.load(tmp_path / JUDGE.name)
    samples, chosen = trainer.chosen(0, 12)
    captions = [sample.caption for sample in samples]
    features = read_back.features([sample.pixels for sample in samples])
    assert sum(read_back.ranked(each, captions)[0] == one for each, one in zip(features, chosen, strict=True)) >= 11


def test_looking_goes_on_where_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.judge.CHUNK", 60)
    whole, halted = (JudgeTrainer(SMALL, tiny.icons(64), CPU) for _ in range(2))
    assert whole.look(tmp_path, Stop())
    (tmp_path / "00000060.safetensors").unlink()
    stop = Stop()
    stop._ask(15, None)
    assert not halted.look(tmp_path, stop)
    assert halted.look(tmp_path, Stop())
    assert halted._captions == whole._captions
    assert all(torch.equal(one, other) for one, other in zip(halted._fields, whole._fields, strict=True))


def test_a_disturbed_picture_is_still_one() -> None:
    pictures = seen([icon.pixels[..., :3] for icon in tiny.icons(64)])
    found = disturbed(pictures, torch.Generator().manual_seed(0))
    assert found.shape == pictures.shape
    assert found.abs().max() <= 1
    assert torch.equal(found, disturbed(pictures, torch.Generator().manual_seed(0)))


def test_the_recipe_learns_from_no_style_that_the_starter_sees() -> None:
    assert not set(read(Path("training/judge.toml")).styles) & set(config.read(Path("training/starter.toml")).styles)
