"""Train the autoencoder of a model: ``python -m training.autoencoder [--config training/full.toml]``.

It learns from the same pictures as the image model. Without a teacher the image model is trained on its latents
afterwards; with one it learns to have the teacher's latents, which the image model is trained on already, and to draw
larger pictures from them.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training import run
from training.compose import Composer
from training.concepts import STARTER
from training.config import ImageConfig, read
from training.icons import Icon, load_icons
from training.learner import Learner, Schedule
from training.sheet import arrange

log = logging.getLogger("training")

SHOWN = 16
MEASURED = 512
"""Pictures the latents' spread is measured on, none of them trained on."""

CERTAIN, CERTAIN_WEIGHT = -12.0, 0.01
"""The logarithm of the variance that latents like the teacher's are to have: next to none; and how much it weighs."""

APART = 1 << 40
"""The number of the first picture that is shown or measured; no run trains on that many."""


class AutoencoderTrainer:
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        self.recipe = config.said("autoencoder")
        self._config = config
        self._device = accelerator.device
        self.batch = config.autoencoder.batch
        self.teacher = load_teacher(config, accelerator.device)
        size = config.size if self.teacher is None else config.native or config.size
        mixture = replace(config.mixture, other_styles=config.autoencoder.other_styles)
        self._composer = Composer(icons, size, mixture, config.seed)
        torch.manual_seed(config.seed)
        channels = config.autoencoder.channels
        self.vae = AutoencoderKL(
            latent_channels=4,
            block_out_channels=channels,
            layers_per_block=config.autoencoder.layers_per_block,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            norm_num_groups=config.autoencoder.groups,
            sample_size=size,
            mid_block_add_attention=False,
        ).to(self._device)
        steps = -(-config.autoencoder.samples // self.batch)
        self.learner = Learner(self.vae.train(), Schedule(steps, config.autoencoder.learning_rate), accelerator)

    def loss(self, step: int) -> Tensor:
        """What differs between picture and reconstruction, in colour and at edges, and what is asked of the latents:
        to be near a normal distribution, or to be the teacher's."""
        config = self._config.autoencoder
        pictures = self._pictures(step * self.batch, self.batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16"):
            found = self.vae.encode(pictures).latent_dist
            noise = torch.randn(found.mean.shape, generator=torch.Generator().manual_seed(step)).to(self._device)
            if self.teacher is None:
                asked = config.kl * found.kl().float().mean()
                latents = found.mean + found.std * noise
            else:
                taught = self._taught(pictures)
                asked = (found.mean.float() - taught).square().mean() + CERTAIN_WEIGHT * (
                    found.logvar - CERTAIN
                ).abs().mean()
                latents = taught + config.jitter * noise
            rebuilt = self.vae.decode(latents).sample.float()
        loss = functional.l1_loss(rebuilt, pictures) + asked
        for axis in (2, 3):
            loss = loss + config.edges * functional.l1_loss(rebuilt.diff(dim=axis), pictures.diff(dim=axis))
        return loss

    @torch.no_grad()
    def _taught(self, pictures: Tensor) -> Tensor:
        """The teacher's latents of the pictures, reduced to the size it knows."""
        assert self.teacher is not None
        small = functional.interpolate(pictures, size=(self._config.size,) * 2, mode="area")
        return self.teacher.encode(small).latents.float()

    def _pictures(self, first: int, count: int) -> Tensor:
        """(count, 3, size, size) from −1 to 1."""
        pixels = np.stack([self._composer.sample(first + place).pixels for place in range(count)])
        return torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def show(self, file: Path) -> None:
        """Pictures above, what is rebuilt of them below."""
        pictures = self._pictures(APART, SHOWN)
        rows = torch.cat([pictures, self.vae(pictures, sample_posterior=False).sample.clamp(-1, 1)])
        pixels = ((rows + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        file.parent.mkdir(parents=True, exist_ok=True)
        arrange([Image.fromarray(each) for each in pixels], [""] * len(pixels), SHOWN).save(file)

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """The latents' standard deviation, and the reconstruction's peak signal-to-noise ratio in dB."""
        latents, errors = [], []
        for first in range(0, MEASURED, 64):
            pictures = self._pictures(APART + first, 64)
            latents.append(self.vae.encode(pictures).latent_dist.mode())
            rebuilt = self.vae.decode(latents[-1]).sample.clamp(-1, 1)
            errors.append(((rebuilt - pictures) / 2).square().mean())
        return torch.cat(latents).std().item(), -10 * torch.stack(errors).mean().log10().item()


def load_teacher(config: ImageConfig, device: torch.device) -> AutoencoderTiny | None:
    """The autoencoder whose latents the image model is trained on, unless it is trained on the new one's own."""
    if config.autoencoder.teacher is None:
        return None
    teacher: AutoencoderTiny = AutoencoderTiny.from_pretrained(config.autoencoder.teacher, torch_dtype=torch.float32)
    return teacher.requires_grad_(False).eval().to(device)


def main(words: list[str]) -> int:
    options = run.arguments("Train the autoencoder.", Path("training/runs/autoencoder")).parse_args(words)
    if not run.prepare(options, "training.autoencoder", words, alone=True):
        return 0
    config = read(options.config)
    if options.samples:
        shorter = config.autoencoder.model_copy(update={"samples": options.samples})
        config = config.model_copy(update={"autoencoder": shorter})
    labels = STARTER if config.vocabulary == "starter" else None
    size = config.size if config.autoencoder.teacher is None else config.native or config.size
    trainer = AutoencoderTrainer(
        config, load_icons(config.autoencoder.styles or config.styles, size, options.cache, labels), run.accelerator()
    )
    run.begin(trainer, options.run)
    stop = run.Stop().listen()
    if not run.complete(trainer, options.run, stop, config.checkpoint_minutes, config.sheet_every):
        return 0
    finish(trainer, options.run)
    return 0


def finish(trainer: AutoencoderTrainer, folder: Path) -> None:
    """Write the autoencoder, with the factor that brings its latents to a standard deviation of 1."""
    with trainer.learner.averaged():
        trainer.vae.eval()
        spread, fidelity = trainer.measure()
        scale = 1 / spread if trainer.teacher is None else trainer.teacher.config.scaling_factor
        trainer.vae.register_to_config(scaling_factor=scale)
        trainer.vae.save_pretrained(folder)
        trainer.show(folder / "sheets" / "final.png")
    log.info("the autoencoder is in %s: %.1f dB, scaling factor %.3f", folder, fidelity, scale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
