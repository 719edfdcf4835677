"""Latents to pixels: as diffusers does it, and safe where float16 is not."""

import io

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from illustrious.errors import EngineFailed
from illustrious.images.diffusion.decode import TILE, decode, png
from tests import tiny


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return tiny.Tiny().pipeline().vae.eval()


LATENTS = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))


def test_pixels_are_diffusers_own(vae: AutoencoderKL) -> None:
    model = vae.to(torch.float32)
    image, warnings = decode(model, LATENTS)
    with torch.inference_mode():
        decoded = model.decode(LATENTS / model.config.scaling_factor).sample
    (expected,) = VaeImageProcessor().postprocess(decoded, output_type="pil")
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert (image.size, warnings) == ((24, 16), [])


def overflowing(vae: AutoencoderKL) -> AutoencoderKL:
    """Activations pass float16's 65,504 and nothing else changes: a group norm takes the factor out again."""
    vae.load_state_dict(tiny.Tiny().pipeline().vae.state_dict())
    vae.to(torch.float16)
    vae.decoder.conv_in.weight.data.mul_(20_000)
    return vae


def test_a_vae_that_overflows_in_float16_decodes_in_float32_and_says_so(vae: AutoencoderKL) -> None:
    model = overflowing(vae)
    image, warnings = decode(model, LATENTS)
    assert "float32" in warnings[0]
    assert model.dtype == torch.float16
    assert np.array_equal(np.asarray(image), np.asarray(decode(model.to(torch.float32), LATENTS)[0]))


def test_a_vae_that_asks_for_float32_is_given_it_at_once(vae: AutoencoderKL) -> None:
    model = overflowing(vae)
    model.register_to_config(force_upcast=True)
    try:
        assert decode(model, LATENTS)[1] == []
    finally:
        model.register_to_config(force_upcast=False)


def test_what_is_no_number_is_no_picture(vae: AutoencoderKL) -> None:
    with pytest.raises(EngineFailed, match="seed"):
        decode(vae.to(torch.float32), LATENTS * torch.nan)
    broken = overflowing(vae).to(torch.float32)
    broken.decoder.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(EngineFailed, match="VAE"):
        decode(broken, LATENTS)


def test_tiles_give_nearly_the_same_picture_and_a_warning(vae: AutoencoderKL) -> None:
    vae.to(torch.float16).load_state_dict(tiny.Tiny().pipeline().vae.state_dict())
    vae.to(torch.float32)
    latents = torch.randn(1, 4, TILE + 8, TILE, generator=torch.Generator().manual_seed(2))
    whole, (tiled, warnings) = decode(vae, latents)[0], decode(vae, latents, in_tiles=True)
    assert tiled.size == whole.size
    assert "tiles" in warnings[0]
    distance = np.abs(np.asarray(whole, dtype=int) - np.asarray(tiled, dtype=int))
    assert 0 < distance.mean() < 8  # the tiles of a random network know less of each other than those of a trained one
    assert decode(vae, LATENTS, in_tiles=True)[1] == []  # one tile is the whole


def test_png_keeps_every_pixel() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), np.asarray(image))
