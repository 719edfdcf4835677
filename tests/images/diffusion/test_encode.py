"""Pixels to latents: as diffusers does it, without chance, and safe where float16 is not."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from illustrious.errors import EngineFailed
from illustrious.images.diffusion.decode import decode
from illustrious.images.diffusion.encode import encode, pixels
from tests import tiny
from tests.images.diffusion.editing import photo

PICTURE = Image.fromarray(photo(24, 16))


@pytest.fixture
def vae() -> AutoencoderKL:
    return tiny.Tiny().pipeline().vae.eval().to(torch.float32)


@torch.inference_mode()
def theirs(vae: AutoencoderKL) -> torch.Tensor:
    mode: torch.Tensor = vae.encode(VaeImageProcessor().preprocess(PICTURE)).latent_dist.mode()
    return mode * vae.config.scaling_factor


def test_pixels_are_diffusers_own() -> None:
    assert torch.equal(pixels(PICTURE), VaeImageProcessor().preprocess(PICTURE))


def test_latents_are_the_mode_of_what_diffusers_encodes(vae: AutoencoderKL) -> None:
    latents = encode(vae, PICTURE)
    assert latents.shape == (1, 4, 4, 6)
    torch.testing.assert_close(latents, theirs(vae))


def test_an_autoencoder_without_a_distribution_has_one_answer() -> None:
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(num_encoder_blocks=(0, 1), num_decoder_blocks=(1, 0), **widths).eval()
    with torch.inference_mode():
        expected = vae.encode(VaeImageProcessor().preprocess(PICTURE)).latents
    torch.testing.assert_close(encode(vae, PICTURE), expected)


def test_means_and_deviations_of_the_latents_are_taken_out_as_decoding_puts_them_in(vae: AutoencoderKL) -> None:
    plain = encode(vae, PICTURE)
    shown = decode(vae, plain)[0]
    vae.register_to_config(latents_mean=[0.1, 0.2, -0.3, 0.4], latents_std=[1.5, 2.0, 0.5, 1.0])
    normal = encode(vae, PICTURE)
    assert not torch.allclose(normal, plain)
    assert (pixels(decode(vae, normal)[0]) - pixels(shown)).abs().max() <= 2.1 / 255  # one level of 256


def test_a_vae_that_overflows_in_float16_encodes_in_float32(vae: AutoencoderKL) -> None:
    # Activations pass float16's 65,504 and nothing else changes: a group norm takes the factor out again.
    vae.encoder.conv_in.weight.data.mul_(60_000)
    vae.to(torch.float16)
    for asks in (False, True):
        vae.register_to_config(force_upcast=asks)
        latents = encode(vae, PICTURE)
        assert vae.dtype == torch.float16
        assert latents.dtype == torch.float32
        torch.testing.assert_close(latents, theirs(vae.to(torch.float32)))
        vae.to(torch.float16)


def test_what_is_no_number_is_no_start(vae: AutoencoderKL) -> None:
    vae.encoder.conv_out.bias.data.fill_(torch.nan)
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(EngineFailed, match="checkpoint"):
            encode(vae.to(dtype), PICTURE)
