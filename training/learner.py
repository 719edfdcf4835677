"""What learns, whatever is learned: weights, AdamW, a learning rate that warms up, holds and falls, a moving average.

>>> learner = Learner(module, Schedule(steps=1000, learning_rate=3e-4), Accelerator())
>>> learner.take(loss)                      # one step down
>>> with learner.averaged(): draw(module)   # the module has its averaged weights here
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.checkpoint import State


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises over ``warmup`` steps, holds, and falls linearly to ``floor`` of itself over the last
    ``decay`` of the run. ``ema``: how much of the average stays at each step, less at the beginning."""

    steps: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.5
    floor: float = 0.03
    ema: float = 0.999
    weight_decay: float = 0.01

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        left = (self.steps - step) / max(self.steps * self.decay, 1)
        return self.learning_rate * warm * max(self.floor, min(1.0, left))


class Learner:
    """Of the module's weights those learn that require a gradient.

    Where the ``accelerator`` is one of several processes, each takes the loss of its own samples, and all of them the
    same step: that of the mean.
    """

    def __init__(self, module: nn.Module, schedule: Schedule, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.schedule = schedule
        self.step = 0
        learned = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        self._names = [name for name, _ in learned]
        self.weights = [weight for _, weight in learned]
        self._average = [weight.detach().clone() for weight in self.weights]
        self._optimizer = torch.optim.AdamW(
            self.weights, schedule.learning_rate, (0.9, 0.99), weight_decay=schedule.weight_decay
        )

    def take(self, loss: Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self._optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            self._share()
        self.accelerator.clip_grad_norm_(self.weights, 1.0)
        self._optimizer.step()
        self.step += 1
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._average, [weight.detach() for weight in self.weights], 1 - decay)

    def _share(self) -> None:
        told = [weight for weight in self.weights if weight.grad is not None]
        means = self.accelerator.reduce([weight.grad for weight in told], "mean")
        for weight, mean in zip(told, means, strict=True):
            weight.grad = mean

    def rehearse(self, loss: Tensor) -> None:
        """The work of a step without its effect, to be timed."""
        loss.backward()
        self._optimizer.zero_grad()

    def state(self) -> State:
        tensors: dict[str, Tensor] = {}
        for name, weight, average in zip(self._names, self.weights, self._average, strict=True):
            tensors[f"weights.{name}"] = weight
            tensors[f"average.{name}"] = average
            for part, value in self._optimizer.state.get(weight, {}).items():
                tensors[f"optimizer.{part}.{name}"] = value
        return State(self.step, tensors)

    @torch.no_grad()
    def resume(self, state: State) -> None:
        """Raises ``ValueError`` for the state of another model."""
        known = {
            name.removeprefix("weights."): tensor.shape for name, tensor in state.tensors.items() if "weights." in name
        }
        if known != {name: weight.shape for name, weight in zip(self._names, self.weights, strict=True)}:
            raise ValueError("The checkpoint is of another model; choose another --run folder.")
        for name, weight, average in zip(self._names, self.weights, self._average, strict=True):
            weight.copy_(state.tensors[f"weights.{name}"])
            average.copy_(state.tensors[f"average.{name}"])
            for part in ("step", "exp_avg", "exp_avg_sq"):
                value = state.tensors.get(f"optimizer.{part}.{name}")
                if value is not None:
                    self._optimizer.state[weight][part] = value if part == "step" else value.to(weight.device)
        self.step = state.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the module has its averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.weights, self._average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
