"""The layers of diffusers' SDXL UNet under the names that Stability AI's own code gives them (LDM names).

The order of the blocks is that of ``sgm/modules/diffusionmodules/openaimodel.py``
(github.com/Stability-AI/generative-models).
"""

from typing import Any

RESIDUAL = {
    "conv1": "in_layers.2",
    "norm1": "in_layers.0",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""A residual block's layers, diffusers' name → LDM's. Those of a transformer have the same names in both."""

OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Layers outside the blocks."""


def ldm_names(unet: Any) -> dict[str, str]:
    """Name of each layer of the UNet → its LDM name."""
    blocks = _blocks(unet)
    named = {}
    for name, module in unet.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        words = name.split(".")
        beginnings = (".".join(words[:count]) for count in range(len(words), 0, -1))
        block = next((beginning for beginning in beginnings if beginning in blocks), None)
        if block is not None:
            inner = name[len(block) :]
            if ".resnets." in block:
                inner = "." + RESIDUAL[inner.removeprefix(".")]
            named[name] = blocks[block] + inner
        elif name in OUTSIDE:
            named[name] = OUTSIDE[name]
    return named


def _blocks(unet: Any) -> dict[str, str]:
    """Blocks of diffusers → blocks of LDM, which numbers them through: every layer of a level, and its resampling."""
    blocks = {}
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            blocks[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            blocks[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    for place, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        blocks[f"mid_block.{name}"] = f"middle_block.{place}"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            blocks[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers is not None:
            place = 2 if hasattr(block, "attentions") else 1
            blocks[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    return blocks
