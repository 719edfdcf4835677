"""Samplers and schedules as published, in plain torch: the reference where diffusers has none.

Everything is in the coordinates of Karras et al. 2022 (arXiv 2206.00364): a noisy latent is the clean one plus sigma
times noise, and ``denoise(x, sigma)`` the model's guess of the clean one. ``sigmas`` ends with 0.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
Noise = Callable[[], Tensor]
Spaced = Callable[[np.ndarray, int], list[tuple[float, float]]]


def table(betas: Tensor) -> np.ndarray:
    """Sigma of every timestep."""
    kept = torch.cumprod(1 - betas, 0).double()
    return np.asarray(((1 - kept) / kept) ** 0.5)


def scaled_linear(zero_snr: bool = False) -> np.ndarray:
    """The table of Stable Diffusion; ``zero_snr``: rescaled (arXiv 2305.08891, algorithm 1) up to sigma 4096."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    sigmas = table(betas)
    if zero_snr:
        root = (1 / (sigmas**2 + 1)) ** 0.5
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        root[-1] = 2**-12
        sigmas = (1 / root**2 - 1) ** 0.5
    return sigmas


# Schedules: sigma table, number of steps → (sigma, timestep) of each step


def at(timesteps: np.ndarray, sigmas: np.ndarray) -> list[tuple[float, float]]:
    between = np.exp(np.interp(timesteps, np.arange(len(sigmas)), np.log(sigmas)))
    return list(zip(between.tolist(), timesteps.tolist(), strict=True))


def of(levels: np.ndarray, sigmas: np.ndarray) -> list[tuple[float, float]]:
    timesteps = np.interp(np.log(levels), np.log(sigmas), np.arange(len(sigmas)))
    return list(zip(levels.tolist(), timesteps.tolist(), strict=True))


def karras(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    low, high = sigmas[0] ** (1 / 7), sigmas[-1] ** (1 / 7)
    return of((high + np.linspace(0, 1, n) * (low - high)) ** 7, sigmas)


def exponential(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return of(np.geomspace(sigmas[-1], sigmas[0], n), sigmas)


def beta(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    # Quantiles read off the distribution function, itself summed up over the angle a of x = sin²(a), where the
    # density is tame: (sin a · cos a) ** 0.2.
    angle = (np.arange(400_000) + 0.5) / 400_000 * math.pi / 2
    share = np.cumsum((np.sin(angle) * np.cos(angle)) ** 0.2)
    edges = np.concatenate([[0.0], share / share[-1]])
    angles = np.interp(1 - np.linspace(0, 1, n), edges, np.linspace(0, math.pi / 2, 400_001))
    return of(sigmas[0] + np.sin(angles) ** 2 * (sigmas[-1] - sigmas[0]), sigmas)


def normal(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return at(np.linspace(999, 0, n), sigmas)


def sgm_uniform(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return at(np.linspace(999, 0, n + 1)[:-1], sigmas)


def simple(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return at(np.array([999.0 - int(i * (1000 / n)) for i in range(n)]), sigmas)


def trailing(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return at(np.array([round(1000 * (1 - i / n)) - 1.0 for i in range(n)]), sigmas)


def leading(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    return at(np.array([1.0 + i * (1000 // n) for i in reversed(range(n))]), sigmas)


def leading_by_one_more(sigmas: np.ndarray, n: int) -> list[tuple[float, float]]:
    """Of n + 1 leading timesteps all but the last, as in diffusers' multistep samplers."""
    return at(np.array([1.0 + i * (1000 // (n + 1)) for i in range(n, 0, -1)]), sigmas)


def whole(spaced: Spaced, rounded: Callable[[float], int]) -> Spaced:
    """The same sigmas, told to the model as whole timesteps."""
    return lambda sigmas, n: [(sigma, float(rounded(timestep))) for sigma, timestep in spaced(sigmas, n)]


SCHEDULES = {
    "Karras": karras,
    "Exponential": exponential,
    "Beta": beta,
    "Normal": normal,
    "SGM Uniform": sgm_uniform,
    "Simple": simple,
    "Trailing": trailing,
}


# Samplers


def slope(x: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """dx/dsigma of the probability flow (equation 3)."""
    return (x - clean) / sigma


def ancestral(here: float, there: float) -> tuple[float, float]:
    """Part the variance at ``there``: what is kept of the old noise (down to sigma), and the new noise."""
    new = there**2 * (here**2 - there**2) / here**2
    return (there**2 - new) ** 0.5, new**0.5


def euler(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for here, there in pairwise(sigmas):
        x = x + (there - here) * slope(x, denoise(x, here), here)
    return x


def euler_ancestral(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for here, there in pairwise(sigmas):
        down, up = ancestral(here, there)
        x = x + (down - here) * slope(x, denoise(x, here), here)
        x = x + up * noise()
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """Algorithm 1 of Karras et al."""
    for here, there in pairwise(sigmas):
        first = slope(x, denoise(x, here), here)
        end = x + (there - here) * first
        if there > 0:
            end = x + (there - here) * (first + slope(end, denoise(end, there), there)) / 2
        x = end
    return x


def dpm_2(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise, eta: float = 0.0) -> Tensor:
    """DPM-Solver-2 (arXiv 2206.00927): the slope in the middle, on a logarithmic scale, holds for the whole step."""
    for here, there in pairwise(sigmas):
        down, up = ancestral(here, there) if eta else (there, 0.0)
        first = slope(x, denoise(x, here), here)
        if there == 0:
            return x - here * first
        middle = (here * down) ** 0.5
        half = x + (middle - here) * first
        x = x + (down - here) * slope(half, denoise(half, middle), middle)
        x = x + up * noise() if eta else x
    return x


def dpm_2_ancestral(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    return dpm_2(denoise, x, sigmas, noise, eta=1.0)


def lms(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """Weights for up to four slopes that integrate every polynomial of their number exactly."""
    slopes: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(sigmas)):
        slopes = [slope(x, denoise(x, here), here), *slopes][:4]
        places = np.array(sigmas[step + 1 - len(slopes) : step + 1][::-1])
        powers = np.arange(len(slopes))
        integrals = (there ** (powers + 1.0) - here ** (powers + 1.0)) / (powers + 1)
        weights = np.linalg.solve(places[None, :] ** powers[:, None], integrals)
        x = x + sum(float(weight) * past for weight, past in zip(weights, slopes, strict=True))
    return x


def dpmpp(
    denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise, order: int, stochastic: bool, heun: bool = False
) -> Tensor:
    """DPM-Solver++ multistep (arXiv 2211.01095) over lambda = −log sigma, and k-diffusion's SDE forms of it.

    The guesses of the clean latent are continued by a polynomial, and the equation solved for it. In the SDE a length
    h counts twice, and noise makes up for what it takes away. Of fewer than 15 steps the last are of lower order.
    """
    twice = 2.0 if stochastic else 1.0
    guesses: list[Tensor] = []
    lengths: list[float] = []
    for step, (here, there) in enumerate(pairwise(sigmas)):
        guesses = [denoise(x, here), *guesses][:order]
        if there == 0:
            return guesses[0]
        h = math.log(here / there)
        part = 1 - math.exp(-twice * h)
        slope_part = 1 - part / (twice * h)
        bend_part = 0.5 - slope_part / (twice * h)
        steps_left = len(sigmas) - 1 - step
        usable = min(len(guesses), steps_left if len(sigmas) - 1 < 15 else order)
        clean = part * guesses[0]
        if usable > 1:
            r0 = lengths[0] / h
            change = (guesses[0] - guesses[1]) / r0
            if usable == 2:
                clean = clean + (slope_part if heun else part / 2) * change
            else:
                r1 = lengths[1] / h
                bend = (change - (guesses[1] - guesses[2]) / r1) / (r0 + r1)
                clean = clean + slope_part * (change + r0 * bend) + bend_part * bend
        x = (1 - part) * x + clean
        if stochastic:
            x = x + there * math.sqrt(part) * noise()
        lengths = [h, *lengths]
    return x


def dpmpp_sde(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """k-diffusion's stochastic DPM-Solver++ (2S), with one Brownian path W over sigma."""
    for here, there in pairwise(sigmas):
        clean = denoise(x, here)
        if there == 0:
            return clean
        middle = (here * there) ** 0.5
        path = noise() * (here - middle) ** 0.5  # W from here to the middle
        down, up = ancestral(here, middle)
        half = clean + down / here * (x - clean) + up * path / (here - middle) ** 0.5
        clean = denoise(half, middle)
        path = path + noise() * (middle - there) ** 0.5  # and on to the end
        down, up = ancestral(here, there)
        x = clean + down / here * (x - clean) + up * path / (here - there) ** 0.5
    return x


SAMPLERS: dict[str, Callable[[Denoiser, Tensor, list[float], Noise], Tensor]] = {
    "Euler": euler,
    "Euler a": euler_ancestral,
    "Heun": heun,
    "DPM2": dpm_2,
    "DPM2 a": dpm_2_ancestral,
    "DPM++ 2M": partial(dpmpp, order=2, stochastic=False),
    "DPM++ 2M SDE": partial(dpmpp, order=2, stochastic=True),
    "DPM++ 2M SDE Heun": partial(dpmpp, order=2, stochastic=True, heun=True),
    "DPM++ 3M": partial(dpmpp, order=3, stochastic=False),
    "DPM++ 3M SDE": partial(dpmpp, order=3, stochastic=True),
    "DPM++ SDE": dpmpp_sde,
    "LMS": lms,
}
