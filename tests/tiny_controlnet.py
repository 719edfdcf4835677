"""ControlNets with random weights for the tiny checkpoints of ``tests.tiny``, in the layouts people have them in."""

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny
from tests.images.diffusion import sgm

CHANNELS = (16, 32, 64)
"""Of the layers that read the picture; two of them halve it, as the tiny VAE does."""


def controlnet(unet: UNet2DConditionModel, seed: int = 0, channels: tuple[int, ...] = CHANNELS) -> ControlNetModel:
    """A copy of the UNet's first half that already does something: what training starts with zeros is random here."""
    torch.manual_seed(seed)
    model = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
    for name, parameter in model.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.startswith("controlnet_cond_embedding"):
            parameter.data.mul_(3)
    return model.eval().requires_grad_(False)


def write_folder(path: Path, model: ControlNetModel) -> Path:
    model.save_pretrained(path)
    return path


def write_single_file(path: Path, model: ControlNetModel, names: str = "diffusers") -> Path:
    """``names``: ``diffusers``, or ``ldm``, as the authors' own code has them."""
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors if names == "diffusers" else ldm(tensors), path, metadata={"format": "pt"})
    return path


def ldm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``cldm/cldm.py`` of github.com/lllyasviel/ControlNet: ``input_hint_block`` is convolutions and activations in
    turn, ``zero_convs`` are sequences of one, and the rest is the UNet's."""
    names = {new: old for old, new, _ in sgm.unet(tiny.STRUCTURE.unet)}
    blocks = sum("cond_embedding.blocks" in key for key in tensors) // 2
    for kind in ("weight", "bias"):
        hint = "controlnet_cond_embedding"
        names[f"{hint}.conv_in.{kind}"] = f"input_hint_block.0.{kind}"
        names[f"{hint}.conv_out.{kind}"] = f"input_hint_block.{2 * blocks + 2}.{kind}"
        for number in range(blocks):
            names[f"{hint}.blocks.{number}.{kind}"] = f"input_hint_block.{2 * number + 2}.{kind}"
        for number in range(20):
            names[f"controlnet_down_blocks.{number}.{kind}"] = f"zero_convs.{number}.0.{kind}"
        names[f"controlnet_mid_block.{kind}"] = f"middle_block_out.0.{kind}"
    return {f"control_model.{names[key]}": value for key, value in tensors.items()}
