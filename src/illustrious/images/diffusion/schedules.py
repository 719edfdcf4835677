"""Schedules: how the noise levels of a picture are spaced over its steps.

A level is a pair: sigma, the standard deviation of the noise over a clean latent (pictures begin near the highest and
end at 0), and the timestep at which the UNet was trained with that much noise. A schedule spaces one of the two, and
the other follows from the model's table of sigmas.

===========  =========  ==========================================================================================
schedule     spaces     formula for step i of n, over T timesteps
===========  =========  ==========================================================================================
Automatic    timesteps  the model's own, see ``samplers``
Karras       sigmas     even in the 7th root of sigma (Karras et al. 2022, arXiv 2206.00364, equation 5)
Exponential  sigmas     even in the logarithm of sigma (k-diffusion)
Beta         sigmas     quantiles of the distribution Beta(0.6, 0.6) (arXiv 2407.12173, over sigmas as in the web UI)
Normal       timesteps  (T − 1) · (1 − i / (n − 1)): both ends (k-diffusion)
SGM Uniform  timesteps  (T − 1) · (1 − i / n): not the lower end (Stability AI's generative-models)
Simple       timesteps  T − 1 − floor(i · T / n): entries of the table (ComfyUI)
Trailing     timesteps  round(T − i · T / n) − 1 (arXiv 2305.08891, table 2)
===========  =========  ==========================================================================================

Between entries of the table, log sigma is linear in the timestep, as in k-diffusion. Plain Python: this module is read
where there is no torch. diffusers spaces by itself where it can (``samplers`` says when): this is for what its
schedulers lack.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from illustrious.errors import InvalidRequest

BETA_SHAPE = 0.6
"""Both parameters of the beta distribution, as in the paper."""


@dataclass(frozen=True)
class Schedule:
    """``name`` is AUTOMATIC1111's label. ``sigmas`` takes lowest, highest and count; ``timesteps`` T and count.

    Both give values from noise to picture. A schedule with neither is made by diffusers alone.
    """

    name: str
    aliases: tuple[str, ...] = ()
    sigmas: Callable[[float, float, int], list[float]] | None = None
    timesteps: Callable[[int, int], list[float]] | None = None


DISTILLED_STEPS = 50
"""Of which distilled models' own few are a selection, where their configuration does not tell (diffusers' default)."""


def check_selection(steps: int, most: int = DISTILLED_STEPS) -> None:
    """Raises ``InvalidRequest`` for more steps than there are to select from."""
    if steps > most:
        raise InvalidRequest(
            f"This sampler takes at most {most} steps, not {steps} steps: it is for models distilled to a few (4 to 8 "
            "are usual). Ask for fewer, or choose another sampler.",
            field="steps",
        )


@dataclass(frozen=True)
class Levels:
    """The noise levels of all steps, from noise to picture, without the final 0."""

    sigmas: list[float]
    timesteps: list[float]


def levels(schedule: Schedule, table: Sequence[float], steps: int) -> Levels:
    """Levels of a schedule on a model. ``table[t]`` is the sigma of timestep ``t``, ascending."""
    if schedule.timesteps is not None:
        timesteps = schedule.timesteps(len(table), steps)
        return Levels([sigma_of(timestep, table) for timestep in timesteps], timesteps)
    if schedule.sigmas is not None:
        sigmas = schedule.sigmas(table[0], table[-1], steps)
        return Levels(sigmas, [timestep_of(sigma, table) for sigma in sigmas])
    raise ValueError(f"{schedule.name} has no formula of its own")


def sigma_of(timestep: float, table: Sequence[float]) -> float:
    """Sigma at a timestep that may lie between two entries."""
    low = min(int(timestep), len(table) - 2)
    part = timestep - low
    return math.exp((1 - part) * math.log(table[low]) + part * math.log(table[low + 1]))


def timestep_of(sigma: float, table: Sequence[float]) -> float:
    """The inverse of ``sigma_of``. Sigmas outside the table have the timestep of its end."""
    low = min(max(bisect_right(table, sigma) - 1, 0), len(table) - 2)
    part = math.log(sigma / table[low]) / math.log(table[low + 1] / table[low])
    return low + min(max(part, 0.0), 1.0)


# The formulas


def ramp(first: float, last: float, count: int) -> list[float]:
    """Evenly spaced, both ends included; the first end alone when ``count`` is 1."""
    if count == 1:
        return [first]
    return [first + (last - first) * number / (count - 1) for number in range(count)]


def karras(lowest: float, highest: float, count: int, rho: float = 7.0) -> list[float]:
    return [root**rho for root in ramp(highest ** (1 / rho), lowest ** (1 / rho), count)]


def exponential(lowest: float, highest: float, count: int) -> list[float]:
    return [math.exp(logarithm) for logarithm in ramp(math.log(highest), math.log(lowest), count)]


def beta(lowest: float, highest: float, count: int) -> list[float]:
    return [lowest + (highest - lowest) * beta_quantile(share) for share in ramp(1.0, 0.0, count)]


def normal(timesteps: int, count: int) -> list[float]:
    return ramp(timesteps - 1, 0, count)


def sgm_uniform(timesteps: int, count: int) -> list[float]:
    return ramp(timesteps - 1, 0, count + 1)[:-1]


def simple(timesteps: int, count: int) -> list[float]:
    stride = timesteps / count
    return [float(timesteps - 1 - int(number * stride)) for number in range(count)]


def trailing(timesteps: int, count: int) -> list[float]:
    # The difference is numpy's, so that halves are rounded as in diffusers.
    stride = (timesteps - timesteps / count) - timesteps
    return [float(round(timesteps + number * stride) - 1) for number in range(count)]


def beta_quantile(share: float) -> float:
    """Where the beta distribution on 0 … 1 has ``share`` of its weight below.

    Below one half by Newton's method on the power series of the incomplete beta function, which converges quickly
    there; above it by symmetry.
    """
    if share > 0.5:
        return 1.0 - beta_quantile(1.0 - share)
    whole = math.gamma(BETA_SHAPE) ** 2 / math.gamma(2 * BETA_SHAPE)
    x = min(math.pow(share * BETA_SHAPE * whole, 1 / BETA_SHAPE), 0.5)
    if x == 0:
        return 0.0
    for _ in range(50):
        change = (_incomplete_beta(x) - share * whole) / math.pow(x * (1 - x), BETA_SHAPE - 1)
        x -= change
        if abs(change) <= 1e-15 * x:
            break
    return x


def _incomplete_beta(x: float) -> float:
    """Integral of (t (1 − t)) ** (shape − 1) from 0 to ``x``, by the binomial series of (1 − t) ** (shape − 1)."""
    coefficient, power, total, order = 1.0, math.pow(x, BETA_SHAPE), 0.0, 0
    while True:
        term = coefficient * power / (BETA_SHAPE + order)
        total += term
        if term <= 1e-17 * total:
            return total
        order += 1
        coefficient *= (order - BETA_SHAPE) / order
        power *= x


AUTOMATIC = Schedule("Automatic", ("automatic",))
KARRAS = Schedule("Karras", ("karras", "k", "ka"), sigmas=karras)
EXPONENTIAL = Schedule("Exponential", ("exponential", "exp"), sigmas=exponential)
SGM_UNIFORM = Schedule("SGM Uniform", ("sgm_uniform", "SGMUniform"), timesteps=sgm_uniform)
SIMPLE = Schedule("Simple", ("simple",), timesteps=simple)
NORMAL = Schedule("Normal", ("normal", "uniform"), timesteps=normal)
BETA = Schedule("Beta", ("beta",), sigmas=beta)
TRAILING = Schedule("Trailing", ("trailing",), timesteps=trailing)

SCHEDULES = (AUTOMATIC, KARRAS, EXPONENTIAL, SGM_UNIFORM, SIMPLE, NORMAL, BETA, TRAILING)
