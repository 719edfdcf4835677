"""The arithmetic of a picture, counted by torch as it calls a model that has shapes and no weights."""

import torch
from benchmarks.full_size import Shapes
from torch.utils.flop_counter import FlopCounterMode

from illustrious.images.diffusion.parts import TIME_IDS

TOKENS = 77


def picture_flops(shapes: Shapes, size: tuple[int, int], steps: int) -> int:
    """Operations (a multiplication and an addition are two) of one picture with guidance: prompt and negative prompt
    through both text encoders, two rows through the UNet at each step, the decoding. Attention is counted, too."""
    unet, vae, *encoders = shapes.parts
    width, height = size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    meta = torch.device("meta")
    latents = torch.empty(1, vae.config.latent_channels, height // factor, width // factor, device=meta)
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim
    with torch.inference_mode():
        with FlopCounterMode(display=False) as once:
            for encoder in encoders:
                encoder(torch.zeros(2, TOKENS, dtype=torch.long, device=meta))
            vae.decode(latents)
        with FlopCounterMode(display=False) as each_row:
            unet(
                latents,
                torch.empty(1, device=meta),
                encoder_hidden_states=torch.empty(1, TOKENS, config.cross_attention_dim, device=meta),
                added_cond_kwargs={
                    "text_embeds": torch.empty(1, pooled, device=meta),
                    "time_ids": torch.empty(1, TIME_IDS, device=meta),
                },
            )
    return once.get_total_flops() + 2 * steps * each_row.get_total_flops()
