"""Bytes counted without a device are those that can be counted by hand; and what SDXL takes of a card, so counted."""

import torch
from benchmarks.full_size import SDXL
from benchmarks.memory import Need, need, needs
from torch import nn


def test_two_layers_take_what_they_take() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
        given = torch.empty(2, 4)
    # In float32: 4·8 + 8 and 8·4 + 4 weights; 2·8 values, and 2·4 beside them.
    assert need(layers, lambda: layers(given)) == Need(weights=4 * 76, layer=4 * 40, computed=4 * (16 + 8))


def test_sdxl_fits_where_the_engine_says_it_does() -> None:
    """1024×1024 in 7.5 GB decoded in tiles, and in 4 GB with the UNet in main memory; a card takes some more, which
    ``gpu.py`` measures."""
    found = needs(SDXL, (1024, 1024), torch.bfloat16)
    step, whole, tile = (found[what] for what in ("UNet, one step of both halves", "VAE, decoding", "VAE, a tile"))
    resting = sum(one.weights for what, one in found.items() if what.startswith("text")) + whole.weights
    assert resting + step.weights + whole.computed > 7.5e9
    assert resting + step.weights + max(step.computed, tile.computed) < 7.5e9
    assert resting + step.layer + max(step.computed, whole.computed) < 4e9
