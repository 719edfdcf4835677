"""Train the starter image model: ``python -m training.image [--config training/full.toml] [--detach]``, or on several
GPUs ``accelerate launch --num_processes 4 -m training.image``, which share each step's samples.

It says first what it will cost. It can be ended at any time (Ctrl-C, SIGTERM, a power cut) and goes on when it is
started again, with the very same result where as many processes share it: every step's pictures and noise depend on the
step's number alone.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


class Batches(Dataset[tuple[Tensor, list[str]]]):
    """One for each step: (n, size, size, 3) bytes, and n captions."""

    def __init__(self, source: Source, batch: int, places: range) -> None:
        self._source, self._batch, self._places = source, batch, places

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        samples = [self._source.sample(step * self._batch + place) for place in self._places]
        return torch.from_numpy(np.stack([sample.pixels for sample in samples])), [each.caption for each in samples]


class ImageTrainer:
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        if config.batch % accelerator.num_processes:
            raise ValueError(
                f"A batch of {config.batch} cannot be shared equally by {accelerator.num_processes} processes; "
                "choose another batch or another number of processes."
            )
        self.batch = config.batch
        self._places = range(accelerator.process_index, config.batch, accelerator.num_processes)
        self.recipe = config.said()
        self._config = config
        self._device = accelerator.device
        self._ahead: Iterator[tuple[Tensor, list[str]]] = iter(())
        self._next = -1
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
        pixels, told = self._composed(step)
        generator = torch.Generator().manual_seed((self._config.seed << 32) + step)
        # Drawn for all, so that however many share a step it is the same.
        dropped = torch.rand(self.batch, generator=generator)[self._places] < self._config.caption_dropout
        captions = ["" if drop else caption for drop, caption in zip(dropped, told, strict=True)]
        with self._arithmetic():
            latents = self.model.latents(pixels.to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1).float()
        timesteps = torch.randint(0, len(self._alpha), (self.batch,), generator=generator)[self._places]
        noise = torch.randn((self.batch, *latents.shape[1:]), generator=generator)[self._places]
        on = self._device
        return latents, self.model.tokens(captions).to(on), timesteps.to(on), noise.to(on)

    def _composed(self, step: int) -> tuple[Tensor, list[str]]:
        batches = Batches(self._composer, self.batch, self._places)
        if not self._config.workers:
            return batches[step]
        if step != self._next:  # the steps after this one are composed ahead from now on
            ahead = range(step, sys.maxsize)
            # Forked: caches of painted icons cannot be sent to another process.
            self._ahead = iter(
                DataLoader(
                    batches, None, sampler=ahead, num_workers=self._config.workers, multiprocessing_context="fork"
                )
            )
        self._next = step + 1
        composed: tuple[Tensor, list[str]] = next(self._ahead)
        return composed

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


def icons_of(config: ImageConfig, cache: Path, accelerator: Accelerator) -> list[Icon]:
    """One process of each machine fetches and renders them; the others find them done."""
    labels = STARTER if config.vocabulary == "starter" else None
    with accelerator.local_main_process_first():
        return load_icons(config.styles, config.size, cache, labels)


def main(words: list[str]) -> int:
    parser = run.arguments("Train the starter image model.", Path("training/runs/image"))
    parser.add_argument("--export-only", action="store_true", help="write the model of the newest checkpoint and end")
    options = parser.parse_args(words)
    if not run.prepare(options, "training.image", words):
        return 0
    config = read(options.config)
    if options.samples:
        config = config.model_copy(update={"samples": options.samples})
    for name, part in (("start", config.model.start), ("autoencoder", config.model.autoencoder)):
        if part is not None and not (part / "config.json").is_file() and not (part / "model_index.json").is_file():
            parser.error(f"{options.config} names {name} = {part}, which is not there; see docs/starter-models.md")
    accelerator = run.accelerator()
    trainer = ImageTrainer(config, icons_of(config, options.cache, accelerator), accelerator)
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
