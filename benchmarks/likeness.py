"""How alike two pictures are."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]
"""Height × width × 3."""


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal to noise, in dB; infinite for two that are equal."""
    error = float(((one.astype(float) - other.astype(float)) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Pixels, other: Pixels) -> float:
    """Structural similarity (Wang et al. 2004): of each channel under a Gaussian window of 11×11 with σ 1.5, averaged
    over places and channels; 1 for two that are equal."""
    first, second = (torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[:, None] for pixels in (one, other))
    places = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(places**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return functional.conv2d(values, window)

    light, dark = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = mean(first), mean(second)
    variances = mean(first**2) - means[0] ** 2, mean(second**2) - means[1] ** 2
    covariance = mean(first * second) - means[0] * means[1]
    above = (2 * means[0] * means[1] + light) * (2 * covariance + dark)
    below = (means[0] ** 2 + means[1] ** 2 + light) * (variances[0] + variances[1] + dark)
    return float((above / below).mean())
