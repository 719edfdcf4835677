"""One step of the adapter for several of the model's."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from training.config import FewStepsConfig, ImageConfig
from training.few_steps import FewStepsTrainer
from training.lora import on_finished
from training.model import NOISE
from training.run import Stop, train

from tests.training import tiny

CPU = Accelerator(cpu=True)


def trainer(base: Path, steps: int = 4, **changes: float) -> FewStepsTrainer:
    few = FewStepsConfig(samples=8 * steps, batch=8, rank=4, learning_rate=1e-2, **changes)
    recipe = on_finished(ImageConfig(size=tiny.SIZE, precision="float32", caption_dropout=0.0), base, few)
    return FewStepsTrainer(recipe.model_copy(update={"few_steps": few}), tiny.icons(), CPU)


def test_the_points_in_time_are_those_of_trailing_spacing(base: Path) -> None:
    scheduler = DDIMScheduler(**NOISE)
    scheduler.set_timesteps(8)
    assert trainer(base)._times(8).tolist() == [*scheduler.timesteps.tolist(), -1]


def test_one_unguided_step_of_the_teacher_is_what_the_untouched_adapter_does(base: Path) -> None:
    alike = trainer(base, teacher_steps=1, guidance=1.0)
    assert alike.loss(0).item() == pytest.approx(0, abs=1e-6)
    assert trainer(base, teacher_steps=1, guidance=5.0).loss(0).item() > 1e-4


def test_a_step_of_the_teacher_is_that_of_ddim(base: Path) -> None:
    made = trainer(base, guidance=1.0)
    made.model.trained.eval()
    scheduler = DDIMScheduler(**NOISE, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(8)
    latents, tokens = torch.randn(1, 4, 8, 8), made.model.tokens(["a frog"])
    times = made._times(8)
    with torch.no_grad():
        velocity = made.model.velocity(latents, times[2:3], tokens)
        expected = scheduler.step(velocity, scheduler.timesteps[2], latents).prev_sample
        assert torch.allclose(made._guided(latents, times[2:3], times[3:4], tokens), expected, atol=1e-5)


def test_the_adapter_comes_nearer_to_the_teacher(base: Path, tmp_path: Path) -> None:
    made = trainer(base, steps=25)
    losses = list(train(made, tmp_path / "run", Stop()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
