from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from training.autoencoder import AutoencoderTrainer, finish
from training.run import Stop, train

from tests.training import tiny


def test_it_learns_to_rebuild_pictures_and_writes_latents_of_deviation_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.autoencoder.MEASURED", 64)
    trainer = AutoencoderTrainer(tiny.config(tmp_path, steps=90), tiny.icons(), torch.device("cpu"))
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
