"""Train the decoder of previews: ``python -m training.preview [--detach]``.

An ``AutoencoderTiny`` of a few thousand weights that learns to draw from the image model's latents, in a millisecond,
what its autoencoder draws well.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training import run
from training.autoencoder import APART, SHOWN, load_teacher
from training.compose import Composer
from training.concepts import STARTER
from training.config import ImageConfig, read
from training.icons import Icon, load_icons
from training.learner import Learner
from training.model import encoded, load_autoencoder
from training.sheet import arrange

log = logging.getLogger("training")

MEASURED = 256
"""Pictures that fidelity is measured on, none of them trained on."""


class PreviewTrainer:
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        teacher = load_teacher(config, accelerator.device) or _own(config, accelerator.device)
        self.recipe = config.said("autoencoder", "preview")
        self._teacher = teacher
        self._jitter = config.autoencoder.jitter
        self._device = accelerator.device
        self.batch = config.preview.batch
        self._composer = Composer(icons, config.size, config.mixture, config.seed)
        torch.manual_seed(config.seed)
        levels, width = len(_widths(teacher)), config.preview.width
        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(4,) * levels,  # there because the class has one; it learns nothing
            decoder_block_out_channels=(width,) * levels,
            num_encoder_blocks=(0, *(1,) * (levels - 1)),
            num_decoder_blocks=(*(1,) * (levels - 1), 0),
            scaling_factor=teacher.config.scaling_factor,
        ).to(self._device)
        self.vae.encoder.requires_grad_(False)
        self.learner = Learner(self.vae.train(), config.preview.schedule, accelerator)

    def loss(self, step: int) -> Tensor:
        """What differs from the picture, in colour and at edges."""
        pictures, latents = self._pairs(step * self.batch, self.batch)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step)).to(self._device)
        drawn: Tensor = self.vae.decode(latents + self._jitter * noise).sample
        loss = functional.l1_loss(drawn, pictures)
        for axis in (2, 3):
            loss = loss + 0.5 * functional.l1_loss(drawn.diff(dim=axis), pictures.diff(dim=axis))
        return loss

    @torch.no_grad()
    def _pairs(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """(count, 3, size, size) from −1 to 1, and their latents."""
        pixels = np.stack([self._composer.sample(first + place).pixels for place in range(count)])
        pictures = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return pictures, encoded(self._teacher, pictures)

    @torch.no_grad()
    def show(self, file: Path) -> None:
        """Pictures above, their previews below."""
        pictures, latents = self._pairs(APART, SHOWN)
        rows = torch.cat([pictures, self.vae.decode(latents).sample.clamp(-1, 1)])
        pixels = ((rows + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        file.parent.mkdir(parents=True, exist_ok=True)
        arrange([Image.fromarray(each) for each in pixels], [""] * len(pixels), SHOWN).save(file)

    @torch.no_grad()
    def measure(self) -> float:
        """Peak signal-to-noise ratio of the previews, in dB."""
        pictures, latents = self._pairs(APART, MEASURED)
        error = ((self.vae.decode(latents).sample.clamp(-1, 1) - pictures) / 2).square().mean()
        return -10 * error.log10().item()


def _own(config: ImageConfig, device: torch.device) -> AutoencoderKL:
    """The model's autoencoder, whose latents it is trained on where no teacher is named. Raises ``ValueError`` where
    there is none."""
    folder = config.model.autoencoder
    if folder is None:
        raise ValueError("The recipe names no autoencoder, from whose latents to draw; name one in [model].")
    vae: AutoencoderKL = load_autoencoder(folder)
    return vae.requires_grad_(False).eval().to(device)


def _widths(vae: AutoencoderKL | AutoencoderTiny) -> tuple[int, ...]:
    config = vae.config
    widths = config.decoder_block_out_channels if isinstance(vae, AutoencoderTiny) else config.block_out_channels
    return tuple(widths)


def main(words: list[str]) -> int:
    options = run.arguments("Train the decoder of previews.", Path("training/runs/preview")).parse_args(words)
    if not run.prepare(options, "training.preview", words, alone=True):
        return 0
    config = read(options.config)
    if options.samples:
        shorter = config.preview.model_copy(update={"samples": options.samples})
        config = config.model_copy(update={"preview": shorter})
    labels = STARTER if config.vocabulary == "starter" else None
    trainer = PreviewTrainer(config, load_icons(config.styles, config.size, options.cache, labels), run.accelerator())
    run.begin(trainer, options.run)
    stop = run.Stop().listen()
    if not run.complete(trainer, options.run, stop, config.checkpoint_minutes, config.sheet_every):
        return 0
    with trainer.learner.averaged():
        fidelity = trainer.measure()
        trainer.vae.to(torch.float16).save_pretrained(options.run / "model" / "preview")  # beside the model's own parts
        trainer.vae.to(torch.float32)
        trainer.show(options.run / "sheets" / "final.png")
    log.info("the decoder is in %s: %.1f dB", options.run / "model" / "preview", fidelity)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
