"""SDXL at its full size with random weights: nothing to look at, but everything to time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from illustrious.images.diffusion.conditioner import TextEncoder
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.samplers import sampler
from illustrious.images.diffusion.tokenizer import clip_tokenizers


@dataclass(frozen=True)
class Shapes:
    """Configurations of the UNet, the VAE and both text encoders, in the words of diffusers and transformers."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, int]
    text_2: Mapping[str, int]

    @property
    def parts(self) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection]:
        """The models, without weights."""
        words = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
        first = CLIPTextConfig(**self.text, **words, hidden_act="quick_gelu", projection_dim=self.text["hidden_size"])
        second = CLIPTextConfig(**self.text_2, **words, hidden_act="gelu", projection_dim=self.text_2["hidden_size"])
        with torch.device("meta"):
            unet, vae = UNet2DConditionModel(**self.unet), AutoencoderKL(**self.vae)
            return unet, vae, CLIPTextModel(first), CLIPTextModelWithProjection(second)


SDXL = Shapes(
    unet={
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    },
    text={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    text_2={"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20},
)
"""Stability AI's SDXL 1.0."""

TINY = Shapes(
    unet={
        **SDXL.unet,
        "sample_size": 8,
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (1, 1, 2),
        "cross_attention_dim": 128,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 6 * 32 + 64,
    },
    vae={**SDXL.vae, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
    text_2={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1},
)
"""Everything about it but the size: to try a script before it has a GPU."""

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def full_size(placement: Placement, size: tuple[int, int] = (1024, 1024), shapes: Shapes = SDXL) -> Model:
    """2.6 billion parameters in the UNet, 0.8 in the text encoders; 6.9 GB in half precision."""
    first, second = clip_tokenizers(77)
    unet, vae, text, text_2 = shapes.parts
    for part in (unet, vae, text, text_2):
        filled(part, placement)
    return Model(
        name="sdxl-random",
        note=None,
        placement=placement,
        unet=unet,
        vae=vae,
        text_encoders=(TextEncoder(first, text), TextEncoder(second, text_2)),
        sampler=sampler("EulerDiscreteScheduler", SCHEDULER),
        size=size,
        factor=8,
        zeros_for_empty_negative=True,
    )


@torch.no_grad()
def filled(part: nn.Module, placement: Placement) -> None:
    """Random weights that keep activations near 1: each tensor a stretch of the same million numbers, for speed.

    Not in inference mode, in which no model is loaded either: torch 2.11 compiles nothing outside of it whose weights
    were made inside.
    """
    part.to(placement.dtype).to_empty(device=placement.device).eval().requires_grad_(False)
    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(placement.device, placement.dtype)
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        if not tensor.is_floating_point():
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))  # positions
        elif tensor.ndim == 1:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            repeats = -(-tensor.numel() // len(numbers))
            values = numbers.repeat(repeats)[: tensor.numel()].view_as(tensor)
            tensor.copy_(values / (tensor[0].numel() ** 0.5))
