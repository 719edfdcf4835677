from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny
from training.autoencoder import AutoencoderTrainer, finish
from training.config import AutoencoderConfig
from training.run import Stop, train

from tests.training import tiny


def test_it_learns_to_rebuild_pictures_and_writes_latents_of_deviation_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.autoencoder.MEASURED", 64)
    trainer = AutoencoderTrainer(tiny.config(tmp_path, steps=90), tiny.icons(), Accelerator(cpu=True))
    _, before = trainer.measure()
    for _ in train(trainer, tmp_path / "run", Stop()):
        pass
    finish(trainer, tmp_path / "run")
    _, after = trainer.measure()
    assert after > before + 1
    written = AutoencoderKL.from_pretrained(tmp_path / "run")
    pictures = trainer._pictures(1 << 40, 64)
    with torch.no_grad():
        latents = written.encode(pictures).latent_dist.mode() * written.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.15)
    assert (tmp_path / "run" / "sheets" / "final.png").exists()


def test_with_a_teacher_it_has_the_teachers_latents_and_draws_larger(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"num_encoder_blocks": (0, 1), "num_decoder_blocks": (1, 0)}
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    AutoencoderTiny(**blocks, **widths).save_pretrained(tmp_path / "teacher")
    config = tiny.config(tmp_path, steps=60).model_copy(
        update={
            "native": 2 * tiny.SIZE,
            "autoencoder": AutoencoderConfig(
                channels=(16, 16, 16), samples=240, batch=4, learning_rate=3e-3, teacher=tmp_path / "teacher"
            ),
        }
    )
    trainer = AutoencoderTrainer(config, tiny.icons(2 * tiny.SIZE), Accelerator(cpu=True))
    pictures = trainer._pictures(1 << 40, 16)

    def distance() -> float:
        with torch.no_grad():
            return (trainer.vae.encode(pictures).latent_dist.mode() - trainer._taught(pictures)).square().mean().item()

    before = distance()
    for _ in train(trainer, tmp_path / "run", Stop()):
        pass
    finish(trainer, tmp_path / "run")
    assert distance() < before / 2
    written = AutoencoderKL.from_pretrained(tmp_path / "run")
    assert written.config.scaling_factor == trainer.teacher.config.scaling_factor
    with torch.no_grad():
        assert written.decode(trainer._taught(pictures)).sample.shape[-1] == 2 * tiny.SIZE
