# mypy: disable-error-code="misc"
# (diffusers has no types, so every class here has a base of type Any)
"""diffusers' schedulers, and what artists rely on that diffusers lacks.

The classes have the names of diffusers' own. With ``spacing`` unset they do what diffusers does; set, their steps are
those of a schedule. Two samplers are written out: diffusers' classes for them need libraries that would not be worth
their weight here (scipy for LMS, torchsde for DPM++ SDE), and its DPM++ SDE draws its noise from elsewhere than the
generator it is given.

All randomness comes from the generator given to ``step``. A scheduler is the state of one picture: never share one.
"""

import math
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.polynomial import Polynomial
from torch import Tensor

from illustrious.images.diffusion.schedules import Schedule, check_selection, levels, timestep_of


class Spaced:
    """Mixed into a diffusers scheduler: its steps may be spaced by a ``Schedule``.

    The configuration must then say ``use_exponential_sigmas``: diffusers asks for exponentially spaced sigmas, gets
    those of the schedule, and by itself weaves in the half steps of second-order samplers.
    """

    spacing: Schedule | None = None
    alphas_cumprod: Tensor
    sigmas: Tensor
    timesteps: Tensor
    order: int

    def set_timesteps(self, num_inference_steps: int, device: Any = None, *further: Any) -> None:
        if further:  # a constructor, which would space a thousand steps for nobody, in up to half a second
            num_inference_steps = 1
        # What a step reads of the schedule stays on the CPU, where reading a number does not wait for the device.
        super().set_timesteps(num_inference_steps, None, *further)
        timesteps = self.timesteps
        if self.spacing is not None and self.order == 1:
            # Some of diffusers' schedulers keep whole timesteps only; the UNet knows what lies between.
            exact = levels(self.spacing, self._table(), num_inference_steps).timesteps
            whole = all(timestep.is_integer() for timestep in exact)
            timesteps = torch.tensor(exact, dtype=timesteps.dtype if whole else torch.float32)
        self.timesteps = timesteps.to(device, torch.float32 if timesteps.is_floating_point() else timesteps.dtype)

    def _table(self) -> list[float]:
        table: list[float] = (((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5).tolist()
        return table

    def _convert_to_exponential(self, in_sigmas: Any, num_inference_steps: int) -> Any:
        if self.spacing is None:
            return super()._convert_to_exponential(in_sigmas=in_sigmas, num_inference_steps=num_inference_steps)
        return np.array(levels(self.spacing, self._table(), num_inference_steps).sigmas)


class EulerDiscreteScheduler(Spaced, diffusers.EulerDiscreteScheduler):
    pass


class HeunDiscreteScheduler(Spaced, diffusers.HeunDiscreteScheduler):
    pass


class KDPM2DiscreteScheduler(Spaced, diffusers.KDPM2DiscreteScheduler):
    pass


class KDPM2AncestralDiscreteScheduler(Spaced, diffusers.KDPM2AncestralDiscreteScheduler):
    pass


class DPMSolverMultistepScheduler(Spaced, diffusers.DPMSolverMultistepScheduler):
    """With one correction: diffusers 0.42 has −1/2 for +1/2 in the third-order update of the SDE.

    So it takes the second derivative for one whole too little, and pictures keep noise however many the steps.
    """

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Tensor], *further: Any, sample: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        update: Tensor = super().multistep_dpm_solver_third_order_update(
            model_output_list, *further, sample=sample, noise=noise
        )
        if self.config.algorithm_type != "sde-dpmsolver++":
            return update
        index = self.step_index
        alphas, sigmas = self._sigma_to_alpha_sigma_t(self.sigmas[index - 2 : index + 2])
        lambdas = (torch.log(alphas) - torch.log(sigmas)).tolist()
        older, old, new = (later - earlier for earlier, later in pairwise(lambdas))
        third, second, first = model_output_list[-3:]
        bend = ((first - second) * new / old - (second - third) * new / older) * new / (old + older)
        corrected: Tensor = update + alphas[-1].item() * bend
        return corrected


class UniPCMultistepScheduler(Spaced, diffusers.UniPCMultistepScheduler):
    pass


class EulerAncestralDiscreteScheduler(Spaced, diffusers.EulerAncestralDiscreteScheduler):
    """diffusers spaces its steps by timesteps only, and asks for no sigmas."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None, *further: Any) -> None:
        super().set_timesteps(num_inference_steps, device, *further)
        if self.spacing is not None:
            self.sigmas = torch.tensor([*levels(self.spacing, self._table(), num_inference_steps).sigmas, 0.0])


class LMSDiscreteScheduler(EulerDiscreteScheduler):
    """LMS: linear multistep over sigma, the Adams–Bashforth method for steps of any length (k-diffusion).

    The change of a step is the integral, from this sigma to the next, of the polynomial through the last derivatives.
    """

    MEMORY = 4

    def set_timesteps(self, num_inference_steps: int, device: Any = None, *further: Any) -> None:
        super().set_timesteps(num_inference_steps, device, *further)
        self._past: list[tuple[float, Tensor]] = []

    def step(
        self, prediction: Tensor, timestep: Any, sample: Tensor, return_dict: bool = False
    ) -> tuple[Tensor, Tensor]:
        if self.step_index is None:
            self._init_step_index(timestep)
        here, there = self.sigmas[self.step_index].item(), self.sigmas[self.step_index + 1].item()
        clean = clean_latent(self.config.prediction_type, prediction, sample, here)
        slope = (sample - clean) / here
        # Euler's step, and then what the past adds to it: so large sigmas do not cancel each other.
        stepped = clean + there / here * (sample - clean)
        self._past = [(here, slope), *self._past][: self.MEMORY]
        weights = adams_bashforth([place for place, _ in self._past], there)
        for weight, (_, past) in zip(weights[1:], self._past[1:], strict=True):
            stepped = stepped + weight * (past - slope)
        self._step_index += 1
        return stepped, clean


def adams_bashforth(places: list[float], end: float) -> list[float]:
    """Weights of derivatives known at ``places`` (the latest first) in the integral from the latest to ``end``.

    Each is the integral of the Lagrange polynomial that is 1 at its own place and 0 at the others.
    """
    start, weights = places[0], []
    for own in places:
        polynomial = Polynomial([1.0])  # of the share of the step that is done, 0 … 1
        for other in places:
            if other != own:
                polynomial *= Polynomial([start - other, end - start]) / (own - other)
        weights.append(float(polynomial.integ()(1.0)) * (end - start))
    return weights


class DPMSolverSDEScheduler(EulerDiscreteScheduler):
    """DPM++ SDE: stochastic DPM-Solver++ (2S), two evaluations a step (k-diffusion).

    A step from sigma s to t first goes half way, to √(s·t), and then from s to t by what was seen there. The noise of
    both belongs to one Brownian path over sigma, whose two increments are drawn as they are needed.
    """

    order = 2

    def set_timesteps(self, num_inference_steps: int, device: Any = None, *further: Any) -> None:
        super().set_timesteps(num_inference_steps, device, *further)
        half_ways = (self.sigmas[:-2] * self.sigmas[1:-1]) ** 0.5
        table = self._table()
        between = torch.tensor([timestep_of(float(sigma), table) for sigma in half_ways], device=device)
        self.sigmas = torch.cat([_woven(self.sigmas[:-1], half_ways), self.sigmas[-1:]])
        self.timesteps = _woven(self.timesteps, between.to(self.timesteps.dtype))
        self._start: tuple[Tensor, Tensor] | None = None

    def step(
        self,
        prediction: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if self.step_index is None:
            self._init_step_index(timestep)
        index = self.step_index
        here = self.sigmas[index].item()
        clean = clean_latent(self.config.prediction_type, prediction, sample, here)
        self._step_index += 1
        if index == len(self.sigmas) - 2:
            return clean, clean
        there = self.sigmas[index + 1].item()
        increment = math.sqrt(here - there) * randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        if self._start is None:
            self._start = sample, increment
        else:
            here = self.sigmas[index - 1].item()
            (sample, first), self._start = self._start, None
            increment = first + increment
        down, up = ancestral_step(here, there)
        return clean + down / here * (sample - clean) + up / math.sqrt(here - there) * increment, clean


def ancestral_step(here: float, there: float) -> tuple[float, float]:
    """Down to which sigma a step from ``here`` goes, and how much new noise then lifts it to ``there``."""
    up = there * math.sqrt(1 - there**2 / here**2)
    return there**2 / here, up


def _woven(whole: Tensor, half: Tensor) -> Tensor:
    """whole, half, whole, …, whole: n values and the n − 1 between them."""
    return torch.cat([torch.stack([whole[:-1], half], dim=1).flatten(), whole[-1:]])


def clean_latent(prediction_type: str, prediction: Tensor, sample: Tensor, sigma: float) -> Tensor:
    """The latent without noise that a prediction stands for; ``sample`` is that latent plus noise times sigma."""
    if prediction_type == "epsilon":
        return sample - sigma * prediction
    if prediction_type == "v_prediction":
        return sample / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * prediction
    return prediction


class Distilled:
    """Mixed into the schedulers of distilled models: the steps they take are a selection of those of the training."""

    config: Any

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        check_selection(num_inference_steps, self.config.original_inference_steps)
        super().set_timesteps(num_inference_steps, device)


class LCMScheduler(Distilled, diffusers.LCMScheduler):
    pass


class TCDScheduler(Distilled, diffusers.TCDScheduler):
    pass


class Counted:
    """Mixed into schedulers over whole timesteps: they take as many steps as they are asked for.

    diffusers spaces 61, 103, 121 and 122 trailing steps of a thousand by numbers that rounding gives one too many of,
    and the last is timestep −1.
    """

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[self.timesteps >= 0]


class DDIMScheduler(Counted, diffusers.DDIMScheduler):
    pass


class DDPMScheduler(Counted, diffusers.DDPMScheduler):
    pass


class PNDMScheduler(Counted, diffusers.PNDMScheduler):
    pass
