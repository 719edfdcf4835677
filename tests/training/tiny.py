"""Icons and a configuration small enough to train on within a test."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from training.config import AutoencoderConfig, ImageConfig, ModelConfig
from training.icons import Icon, draw

SIZE = 16

DISC = '<circle cx="16" cy="16" r="14" fill="#dd2e44"/>'
SQUARE = '<rect x="4" y="4" width="24" height="24" fill="#3273e1"/>'
TRIANGLE = '<path d="M16 2L30 30H2z" fill="#52a53c"/>'


def svg(body: str, width: int = 32, height: int = 32) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'


def icons(size: int = SIZE) -> list[Icon]:
    shapes = {"red apple": DISC, "house": SQUARE, "frog": TRIANGLE}
    return [Icon(label, (), "twemoji", draw(svg(body), size)) for label, body in shapes.items()]


def config(folder: Path, steps: int = 4) -> ImageConfig:
    """With an untrained autoencoder, which is written into the folder."""
    torch.manual_seed(0)
    AutoencoderKL(block_out_channels=(16, 16), norm_num_groups=16, **_BLOCKS).save_pretrained(folder / "autoencoder")
    model = ModelConfig(
        channels=(16, 32),
        head_width=16,
        text_widths=(32, 32),
        text_layers=2,
        vocabulary=560,
        captions=40,
        autoencoder=folder / "autoencoder",
    )
    return ImageConfig(
        size=SIZE,
        model=model,
        autoencoder=AutoencoderConfig(channels=(16, 16), samples=4 * steps, batch=4, learning_rate=3e-3),
        samples=4 * steps,
        batch=4,
        warmup=1,
        precision="float32",
    )


_BLOCKS = {
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "mid_block_add_attention": False,
}
