"""Train a LoRA that draws in four steps without guidance: ``python -m training.few_steps [--detach]``.

Progressive distillation (Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022) in
one go, with the guidance taken in (Meng et al., "On Distillation of Guided Diffusion Models", 2023): from one of the
four points in time the adapter learns to go in one step where the model itself comes in several guided ones.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from training import lora, run
from training.config import ImageConfig, read
from training.icons import Icon
from training.image import icons_of
from training.sheet import SHEET_PROMPTS, sheet


class FewStepsTrainer(lora.LoraTrainer):
    def __init__(self, config: ImageConfig, icons: list[Icon], accelerator: Accelerator) -> None:
        super().__init__(config, config.few_steps, icons, accelerator)
        self._unconditional = self.model.tokens([""]).to(self._device)

    def loss(self, step: int) -> Tensor:
        """The mean squared error of the velocity that leads in one step to where the teacher comes."""
        config = self._config.few_steps
        latents, tokens, drawn, noise = self._batch(step)
        ends = self._times(config.steps * config.teacher_steps)
        first = drawn % config.steps * config.teacher_steps
        alpha, sigma = self._signal(ends[first])
        start = alpha * latents + sigma * noise
        with self._arithmetic():
            with torch.no_grad(), lora.put_off(self.model.unet):
                reached = start
                for taken in range(config.teacher_steps):
                    reached = self._guided(reached, ends[first + taken], ends[first + taken + 1], tokens)
            predicted = self.model.velocity(start, ends[first], tokens)
        later_alpha, later_sigma = self._signal(ends[first + config.teacher_steps])
        share = later_sigma / sigma
        # What a DDIM step must take for the picture to come there.
        picture = (reached - share * start) / (later_alpha - share * alpha)
        return (predicted.float() - (alpha * start - picture) / sigma).square().mean()

    def _guided(self, noisy: Tensor, time: Tensor, later: Tensor, tokens: Tensor) -> Tensor:
        """One DDIM step of the teacher."""
        both = torch.cat([self._unconditional.expand(len(tokens), -1), tokens])
        without, wanted = self.model.velocity(torch.cat([noisy, noisy]), torch.cat([time, time]), both).float().chunk(2)
        velocity = without + self._config.few_steps.guidance * (wanted - without)
        (alpha, sigma), (later_alpha, later_sigma) = self._signal(time), self._signal(later)
        return later_alpha * (alpha * noisy - sigma * velocity) + later_sigma * (sigma * noisy + alpha * velocity)

    def _times(self, steps: int) -> Tensor:
        """(steps + 1,) timesteps as "trailing" spaces them, and −1 for the end, where nothing is noise."""
        times = torch.arange(steps, 0, -1, device=self._device) * (len(self._alpha) / steps)
        return torch.cat([times.round().long() - 1, torch.tensor([-1], device=self._device)])

    def _signal(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ, each (n, 1, 1, 1)."""
        over = (times < 0)[:, None, None, None]
        alpha, sigma = (values[times][:, None, None, None] for values in (self._alpha, self._sigma))
        return alpha.masked_fill(over, 1.0), sigma.masked_fill(over, 0.0)

    def show(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.model.trained.eval()
        sheet(self.model.pipeline(), SHEET_PROMPTS, steps=self._config.few_steps.steps, guidance=1.0).save(file)
        self.model.trained.train()


def main(words: list[str]) -> int:
    parser = run.arguments("Train a LoRA that draws in few steps.", Path("training/runs/few-steps"))
    parser.add_argument("--base", type=Path, default=Path("training/runs/image/model"), help="the finished model")
    options = parser.parse_args(words)
    if not run.prepare(options, "training.few_steps", words):
        return 0
    config = read(options.config)
    if options.samples:
        changed = config.few_steps.model_copy(update={"samples": options.samples})
        config = config.model_copy(update={"few_steps": changed})
    config = lora.on_finished(config, options.base, config.few_steps).model_copy(update={"caption_dropout": 0.0})
    accelerator = run.accelerator()
    trainer = FewStepsTrainer(config, icons_of(config, options.cache, accelerator), accelerator)
    steps = config.few_steps.steps
    return lora.learn(
        trainer, config, options.run, f"{steps}-steps", f"For {steps} steps of Euler, trailing, with guidance 1."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
