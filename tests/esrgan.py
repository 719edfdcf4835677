"""Tiny upscalers of the ESRGAN family: real in everything but size.

>>> save_file(esrgan(), folder / "4x-tiny.safetensors")
>>> torch.save({"params_ema": esrgan()}, folder / "4x-tiny.pth")
"""

import math

import torch
from torch import Tensor

FEATURES, GROWTH = 16, 32


def esrgan(scale: int = 4, plain: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of an RRDBNet with one block, ``scale`` a power of two: random, or ``plain``, which repeats every
    pixel ``scale`` times along both edges."""
    names = [("conv_first", 3, FEATURES)]
    for block in range(1, 4):
        names += [(f"body.0.rdb{block}.conv{n}", FEATURES + (n - 1) * GROWTH, GROWTH) for n in range(1, 5)]
        names += [(f"body.0.rdb{block}.conv5", FEATURES + 4 * GROWTH, FEATURES)]
    names += [("conv_body", FEATURES, FEATURES)]
    names += [(f"conv_up{n + 1}", FEATURES, FEATURES) for n in range(int(math.log2(scale)))]
    names += [("conv_hr", FEATURES, FEATURES), ("conv_last", FEATURES, 3)]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, inside, outside in names:
        if plain:
            weight = torch.zeros(outside, inside, 3, 3)
            if not name.startswith(("body", "conv_body")):
                for channel in range(3):
                    weight[channel, channel, 1, 1] = 1
        else:
            weight = torch.randn(outside, inside, 3, 3, generator=generator) / math.sqrt(9 * inside)
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = torch.zeros(outside) if name != "conv_last" or plain else torch.full((3,), 0.5)
    return tensors
