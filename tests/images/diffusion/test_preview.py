"""Previews: small, close to the picture, and hardly any work."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from illustrious.images import EngineOptions
from illustrious.images.diffusion.decode import decode
from illustrious.images.diffusion.encode import encode
from illustrious.images.diffusion.model import load
from illustrious.images.diffusion.preview import LARGEST, Previewer, fit
from tests import tiny


@pytest.fixture(scope="module")
def vae() -> Any:
    """The starter model's."""
    loading = load(EngineOptions(device="cpu"))
    while True:
        try:
            next(loading)
        except StopIteration as loaded:
            return loaded.value.vae


def opened(preview: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(preview))
    assert image.format == "WEBP"
    return image


def scene() -> Image.Image:
    picture = Image.new("RGB", (64, 64), (40, 160, 60))
    picture.paste((220, 40, 30), (12, 20, 44, 52))
    picture.paste((250, 240, 90), (36, 4, 60, 20))
    return picture


def test_a_preview_looks_like_the_picture(vae: Any) -> None:
    latents = encode(vae, scene())
    picture, _ = decode(vae, latents)
    seen = opened(Previewer(vae).preview(latents))
    assert seen.size == tuple(latents.shape[:1:-1])
    wanted = picture.resize(seen.size, Image.Resampling.BOX)
    likeness = np.corrcoef(np.asarray(seen).ravel(), np.asarray(wanted).ravel())[0, 1]
    assert likeness > 0.8


class LinearVAE:
    """Decodes by a map of its own, each latent to 2 × 2 pixels: what a fit must find again."""

    dtype, device = torch.float32, torch.device("cpu")
    config = type("Config", (), {"latent_channels": 4, "scaling_factor": 0.5})
    weights = torch.tensor([[0.1, 0.0, -0.1], [0.0, 0.2, 0.0], [0.05, 0.05, 0.05], [-0.1, 0.0, 0.1]])
    bias = torch.tensor([0.1, 0.0, -0.2])

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, latents: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.decoded += 1
        colours = torch.einsum("nchw,ck->nkhw", latents, self.weights) + self.bias.view(1, 3, 1, 1)
        return (colours.repeat_interleave(2, -1).repeat_interleave(2, -2),)


def test_a_linear_vae_is_found_again_once() -> None:
    vae = LinearVAE()
    found = fit(vae)
    assert torch.allclose(found[:-1], vae.weights / 0.5, atol=0.01)
    assert torch.allclose(found[-1], vae.bias, atol=0.01)
    previewer = Previewer(vae)
    for _ in range(3):
        previewer.preview(torch.zeros(1, 4, 8, 8))
    assert vae.decoded == 2, "by fit, and by the first preview"


def test_a_model_with_a_decoder_of_its_own_has_larger_previews_of_small_pictures() -> None:
    vae, decoder = LinearVAE(), LinearVAE()
    previewer = Previewer(vae, decoder)
    before = vae.decoded
    assert opened(previewer.preview(torch.zeros(1, 4, 16, 12))).size == (24, 32)
    assert (vae.decoded, decoder.decoded) == (before, 1)
    assert opened(previewer.preview(torch.zeros(1, 4, 64, 64))).size == (64, 64)
    assert decoder.decoded == 1, "large ones would take too long"


@pytest.fixture(scope="module")
def random_vaes() -> Iterator[Any]:
    return iter([tiny.Tiny(seed=seed).pipeline().vae.eval() for seed in (0, 1)])


def test_every_vae_has_its_own_map_also_in_float16(random_vaes: Iterator[Any]) -> None:
    first, second = (fit(vae) for vae in random_vaes)
    assert first.isfinite().all() and not torch.allclose(first, second, atol=0.01)


@pytest.mark.parametrize(
    ("latents", "size"), [((128, 96), (96, 128)), ((256, 144), (72, 128)), ((300, 300), (100, 100))]
)
def test_large_pictures_have_small_previews(latents: tuple[int, int], size: tuple[int, int]) -> None:
    assert opened(Previewer(LinearVAE()).preview(torch.zeros(1, 4, *latents))).size == size
    assert max(size) <= LARGEST


def test_what_is_no_number_is_shown_as_grey() -> None:
    seen = opened(Previewer(LinearVAE()).preview(torch.full((1, 4, 8, 8), float("nan"))))
    assert np.ptp(np.asarray(seen)) < 3
