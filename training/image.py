"""Train the starter image model: ``python -m training.image [--config training/full.toml] [--detach]``, or on several
GPUs ``accelerate launch --num_processes 4 -m training.image``, which share each step's samples.

It says first what it will cost. It can be ended at any time (Ctrl-C, SIGTERM, a power cut) and goes on when it is
started again, with the very same result where as many processes share it: every step's pictures and noise depend on the
step's number alone.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from training import checkpoint, model, run
from training.compose import Composer, Sample
from training.concepts import STARTER
from training.config import ImageConfig, read
from training.export import export
from training.icons import Icon, load_icons
from training.learner import Learner
from training.model import StarterModel
from training.sheet import SHEET_PROMPTS, sheet

log = logging.getLogger("training")


class Source(Protocol):
    """Where samples come from: one number gives one."""

    def sample(self, index: int) -> Sample: ...


class ImageTrainer:
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        if config.batch % accelerator.num_processes:
            raise ValueError(
                f"A batch of {config.batch} cannot be shared equally by {accelerator.num_processes} processes; "
                "choose another batch or another number of processes."
            )
        self.batch = config.batch
        self._places = range(accelerator.process_index, config.batch, accelerator.num_processes)
        self._config = config
        self._device = accelerator.device
        self._composer: Source = Composer(icons, config.size, config.mixture, config.seed)
        self.model = self._model()
        for module in (self.model.trained, self.model.vae):
            module.to(accelerator.device)
        self.model.vae.requires_grad_(False).eval()
        self.learner = Learner(self.model.trained.train(), config.schedule, accelerator)
        signal = model.noise_schedule().alphas_cumprod.to(accelerator.device)
        self._alpha, self._sigma = signal.sqrt(), (1 - signal).sqrt()

    def _model(self) -> StarterModel:
        config = self._config
        if config.model.start is not None:
            started = model.load(config.model.start)
            return replace(started, size=config.native or started.size)
        captions = (self._composer.sample(index).caption for index in range(config.model.captions))
        return model.build(config.model, config.size, captions, config.seed)

    def loss(self, step: int) -> Tensor:
        """The mean squared error of the velocity α·noise − σ·picture."""
        latents, tokens, timesteps, noise = self._batch(step)
        alpha, sigma = (values[timesteps][:, None, None, None] for values in (self._alpha, self._sigma))
        with self._arithmetic():
            predicted = self.model.velocity(alpha * latents + sigma * noise, timesteps, tokens)
        error = (predicted.float() - (alpha * noise - sigma * latents)).square().mean(dim=(1, 2, 3))
        if self._config.min_snr:
            ratio = (alpha / sigma).square().flatten()
            error = error * ratio.clamp(max=self._config.min_snr) / (ratio + 1)
        return error.mean()

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, token ids, timesteps and noise of a step: of this process's share of its samples."""
        samples = [self._composer.sample(step * self.batch + place) for place in self._places]
        generator = torch.Generator().manual_seed((self._config.seed << 32) + step)
        # Drawn for all, so that however many share a step it is the same.
        dropped = torch.rand(self.batch, generator=generator)[self._places] < self._config.caption_dropout
        captions = ["" if drop else sample.caption for drop, sample in zip(dropped, samples, strict=True)]
        pictures = torch.from_numpy(np.stack([sample.pixels for sample in samples])).to(self._device)
        with self._arithmetic():
            latents = self.model.latents(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).float()
        timesteps = torch.randint(0, len(self._alpha), (self.batch,), generator=generator)[self._places]
        noise = torch.randn((self.batch, *latents.shape[1:]), generator=generator)[self._places]
        on = self._device
        return latents, self.model.tokens(captions).to(on), timesteps.to(on), noise.to(on)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16")

    def finished(self) -> StarterModel:
        """With the autoencoder it is to be shipped with."""
        config = self._config.model
        if config.start is None or config.autoencoder is None:
            return self.model
        return replace(self.model, vae=model.load_autoencoder(config.autoencoder))

    def show(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.model.trained.eval()
        sheet(self.model.pipeline(), SHEET_PROMPTS, told=self.model.size).save(file)
        self.model.trained.train()


def main(words: list[str]) -> int:
    parser = run.arguments("Train the starter image model.", Path("training/runs/image"))
    parser.add_argument("--export-only", action="store_true", help="write the model of the newest checkpoint and end")
    options = parser.parse_args(words)
    if not run.prepare(options, "training.image", words):
        return 0
    config = read(options.config)
    if options.samples:
        config = config.model_copy(update={"samples": options.samples})
    labels = STARTER if config.vocabulary == "starter" else None
    icons = load_icons(config.styles, config.size, options.cache, labels)
    trainer = ImageTrainer(config, icons, run.accelerator())
    if options.export_only:
        state = checkpoint.newest(options.run / "checkpoints")
        if state is None:
            parser.error(f"{options.run} has no checkpoint yet; train first")
        trainer.learner.resume(state)
    else:
        run.begin(trainer, options.run)
        stop = run.Stop().listen()
        if not run.complete(trainer, options.run, stop, config.checkpoint_minutes, config.sheet_every):
            return 0
    with trainer.learner.averaged():
        trainer.model = trainer.finished()
        export(trainer.model, options.run / "model")
        trainer.show(options.run / "sheets" / "final.png")
    log.info("the model is in %s", options.run / "model")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
