from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from training.config import AutoencoderConfig, ImageConfig, PreviewConfig
from training.preview import PreviewTrainer
from training.run import Stop, train

from tests.training import tiny

CPU = Accelerator(cpu=True)


def recipe(teacher: Path | None) -> ImageConfig:
    preview = PreviewConfig(width=8, samples=800, batch=8, learning_rate=1e-2)
    return ImageConfig(size=tiny.SIZE, autoencoder=AutoencoderConfig(teacher=teacher), preview=preview)


def test_it_learns_to_draw_from_the_teachers_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"num_encoder_blocks": (0, 1), "num_decoder_blocks": (1, 0)}
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    AutoencoderTiny(**blocks, **widths).save_pretrained(tmp_path)
    trainer = PreviewTrainer(recipe(tmp_path), tiny.icons(), CPU)
    encoder = [weight.clone() for weight in trainer.vae.encoder.parameters()]
    before = trainer.measure()
    for _ in train(trainer, tmp_path / "run", Stop()):
        pass
    assert trainer.measure() > before + 2
    assert all(map(torch.equal, encoder, trainer.vae.encoder.parameters()))
    trainer.show(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_without_a_teacher_it_draws_from_the_latents_of_the_models_own_autoencoder(tmp_path: Path) -> None:
    config = tiny.config(tmp_path).model_copy(update={"preview": PreviewConfig(width=8, samples=64, batch=8)})
    trainer = PreviewTrainer(config, tiny.icons(), CPU)
    pictures, latents = trainer._pairs(0, 2)
    assert latents.shape == (2, 4, tiny.SIZE // 2, tiny.SIZE // 2)
    assert trainer.vae.decode(latents).sample.shape == pictures.shape
    list(train(trainer, tmp_path / "run", Stop()))
    assert trainer.vae.config.scaling_factor == trainer._teacher.config.scaling_factor


def test_without_either_there_are_no_latents_to_draw_from() -> None:
    with pytest.raises(ValueError, match="names no autoencoder"):
        PreviewTrainer(recipe(None), tiny.icons(), CPU)
