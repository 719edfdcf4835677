"""A single-file checkpoint: the four models of SDXL in one file, under the names of Stability AI's own code (LDM keys).

Such a file says nothing about its structure, so the configurations are read off the shapes of its tensors; what
shapes cannot tell (activations, norms, noise schedule) is the same in every SDXL model and lies in ``data/sdxl``.
Keys are converted by diffusers. What a file says about itself beside its tensors (native size, v-prediction) is read by
``catalog``.
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor
from transformers import CLIPTextConfig

from illustrious.catalog.prediction import prediction
from illustrious.catalog.single_file import LORA_MARKS, size_said
from illustrious.errors import Unavailable
from illustrious.images.diffusion.parts import TIME_IDS, Checkpoint, Part, latent_factor
from illustrious.images.diffusion.samplers import of_file
from illustrious.images.diffusion.tokenizer import VOCABULARY, clip_tokenizers

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "conditioner.embedders.0.transformer.text_model."
TEXT_ENCODER_2 = "conditioner.embedders.1.model."
REFINER_TEXT_ENCODER = "conditioner.embedders.0.model."

HEAD = 64
"""Channels per attention head, in every attention of SDXL."""

NATIVE_SIZE = 1024


class Tensors:
    """Tensors of one part, their prefix taken off. Asking for one that is not there is a sentence, not a KeyError."""

    def __init__(self, title: str, prefix: str, tensors: dict[str, Tensor]) -> None:
        self.title = title
        self.named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    def shape(self, key: str) -> list[int]:
        if key not in self.named:
            raise _incomplete(self.title, key)
        return list(self.named[key].shape)

    def width(self, key: str) -> int:
        """Length along the first axis: the output channels of a convolution or a linear layer."""
        return self.shape(key)[0]

    def count(self, prefix: str) -> int:
        """How many are numbered under ``prefix``: 0, 1, 2, …"""
        found = (re.match(re.escape(prefix) + r"(\d+)\.", key) for key in self.named)
        return len({match[1] for match in found if match})

    def __contains__(self, key: str) -> bool:
        return key in self.named


def parse(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Checkpoint:
    """The parts of the file at ``path``. Raises ``Unavailable`` for no complete SDXL checkpoint, saying what it is."""
    name = path.stem
    _check_is_complete_sdxl(name, tensors)
    first = Tensors("first text encoder", TEXT_ENCODER, tensors)
    second = Tensors("second text encoder", TEXT_ENCODER_2, tensors)
    vae = Tensors("VAE", VAE, tensors)
    unet = Tensors("UNet", UNET, tensors)

    first_config, second_config = text_encoder_config(first), text_encoder_2_config(second)
    vae_config = autoencoder_config(vae)
    size = size_said(metadata) or (NATIVE_SIZE, NATIVE_SIZE)
    unet_config = {
        **unet_config_of(unet, second_config["projection_dim"]),
        "sample_size": size[1] // latent_factor(vae_config),
    }
    return Checkpoint(
        name=name,
        unet=Part(unet.title, "UNet2DConditionModel", unet_config, _unet_tensors(tensors, unet, unet_config)),
        vae=Part(vae.title, "AutoencoderKL", vae_config, _vae_tensors(tensors, vae, vae_config)),
        text_encoders=(
            Part(first.title, "CLIPTextModel", first_config, convert_ldm_clip_checkpoint(tensors)),
            Part(second.title, "CLIPTextModelWithProjection", second_config, _open_clip(tensors, second_config)),
        ),
        tokenizers=clip_tokenizers(first_config["max_position_embeddings"]),
        sampler=of_file(name, prediction(tensors, metadata, path)),
        size=size,
        zeros_for_empty_negative=True,
    )


# What the file is


def _check_is_complete_sdxl(name: str, tensors: dict[str, Tensor]) -> None:
    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in tensors)

    choose = "Choose a complete SDXL checkpoint with --model."
    if any(mark in key for key in tensors for mark in LORA_MARKS):
        raise Unavailable(f"{name} is a LoRA, which changes a model and is none itself. {choose}")
    if not has(UNET):
        raise Unavailable(f"{name} has no UNet under SDXL's names ({UNET}…): it is no SDXL checkpoint. {choose}")
    if has("cond_stage_model.") or (f"{UNET}label_emb.0.0.weight" not in tensors and not has("conditioner.")):
        raise Unavailable(f"{name} is no SDXL checkpoint, but of another family (Stable Diffusion 1 or 2?). {choose}")
    if has(REFINER_TEXT_ENCODER):
        raise Unavailable(f"{name} is SDXL's refiner, which only reworks finished pictures. {choose}")
    for title, prefix in (("VAE", VAE), ("first text encoder", TEXT_ENCODER), ("second text encoder", TEXT_ENCODER_2)):
        if not has(prefix):
            raise Unavailable(f"{name} has no {title} ({prefix}…): it is only a part of a checkpoint. {choose}")


def _incomplete(title: str, key: str) -> Unavailable:
    return Unavailable(f"The {title} lacks the tensor {key}. Download the model again, or choose another with --model.")


def _unknown_structure(what: str) -> Unavailable:
    return Unavailable(
        f"The UNet has a structure that diffusers cannot build ({what}). Choose an SDXL checkpoint with --model."
    )


def _constants(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files("illustrious") / "data" / "sdxl" / f"{name}.json").read_text("utf-8"))
    return content


# Shapes → configurations, in diffusers' and transformers' terms


def unet_config_of(tensors: Tensors, pooled_width: int) -> dict[str, Any]:
    """The UNet's structure. Levels are stretches of input blocks between downsamplings (``op``)."""
    levels = _levels(tensors)
    layers = {len(level) for level in levels}
    if len(layers) != 1:
        raise _unknown_structure("its levels differ in length")
    per_level = layers.pop()
    channels = [level[0][0] for level in levels]
    down = [[depth for _, depth in level] for level in levels]
    depths = [_depth(tensors, f"output_blocks.{number}.1.") for number in range(tensors.count("output_blocks."))]
    up = [depths[start : start + per_level + 1] for start in range(0, len(depths), per_level + 1)]
    if len(up) != len(down) or any((0 in level) != (not any(level)) for level in down + up):
        raise _unknown_structure("only some layers of a level have attention")
    middle = _depth(tensors, "middle_block.1.")
    if middle not in (0, down[-1][0]):
        raise _unknown_structure("its middle is of another depth than the level before it")

    in_channels = tensors.shape("input_blocks.0.0.weight")[1]
    if in_channels not in (4, 9):
        raise Unavailable(
            f"The UNet takes {in_channels} channels, made for editing pictures; this engine draws with 4 (text to "
            "image) or 9 (inpainting). Choose another checkpoint with --model."
        )
    attention = next((key for key in tensors.named if key.endswith("attn2.to_k.weight")), None)
    projection = next((key for key in tensors.named if key.endswith(".proj_in.weight")), None)
    if attention is None or projection is None:
        raise _unknown_structure("it has no attention to the prompt")
    conditions = tensors.shape("label_emb.0.0.weight")[1]
    regular = all(len(set(level)) == 1 for level in down + up) and [level[0] for level in reversed(up)] == [
        level[0] for level in down
    ]
    return {
        **_constants("unet"),
        "in_channels": in_channels,
        "out_channels": tensors.width("out.2.weight"),
        "block_out_channels": channels,
        "layers_per_block": per_level,
        "down_block_types": ["CrossAttnDownBlock2D" if any(level) else "DownBlock2D" for level in down],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "up_block_types": ["CrossAttnUpBlock2D" if any(level) else "UpBlock2D" for level in up],
        # A level without attention is still given a depth of 1, which diffusers reads nowhere.
        "transformer_layers_per_block": [max(1, level[0]) for level in down] if regular else _ones(down),
        "reverse_transformer_layers_per_block": None if regular else _ones(up),
        # The number of heads, in spite of its name.
        "attention_head_dim": [max(1, width // HEAD) for width in channels],
        "cross_attention_dim": tensors.shape(attention)[1],
        "use_linear_projection": len(tensors.shape(projection)) == 2,
        "projection_class_embeddings_input_dim": conditions,
        "addition_time_embed_dim": (conditions - pooled_width) // TIME_IDS,
    }


def _levels(tensors: Tensors) -> list[list[tuple[int, int]]]:
    """Per level, per layer: output channels and transformer depth."""
    levels: list[list[tuple[int, int]]] = [[]]
    for number in range(1, tensors.count("input_blocks.")):
        block = f"input_blocks.{number}."
        if f"{block}0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append((tensors.width(f"{block}0.out_layers.3.weight"), _depth(tensors, f"{block}1.")))
    return levels


def _depth(tensors: Tensors, prefix: str) -> int:
    return tensors.count(f"{prefix}transformer_blocks.")


def _ones(levels: list[list[int]]) -> list[int | list[int]]:
    """Depths layer by layer, and 1 for a level without attention."""
    return [level if any(level) else 1 for level in levels]


def autoencoder_config(tensors: Tensors) -> dict[str, Any]:
    levels = range(tensors.count("encoder.down."))
    return {
        **_constants("vae"),
        "in_channels": tensors.shape("encoder.conv_in.weight")[1],
        "out_channels": tensors.width("decoder.conv_out.weight"),
        "latent_channels": tensors.width("post_quant_conv.weight"),
        "block_out_channels": [tensors.width(f"encoder.down.{level}.block.0.conv2.weight") for level in levels],
        "layers_per_block": tensors.count("encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
    }


def text_encoder_config(tensors: Tensors) -> dict[str, Any]:
    """OpenAI's CLIP text model, under transformers' own names."""
    return _clip_config(
        "text_encoder",
        words=tensors.shape("embeddings.token_embedding.weight"),
        positions=tensors.width("embeddings.position_embedding.weight"),
        layers=tensors.count("encoder.layers."),
        inner=tensors.width("encoder.layers.0.mlp.fc1.weight"),
    )


def text_encoder_2_config(tensors: Tensors) -> dict[str, Any]:
    """OpenCLIP's text model. Its projection is stored as width × projected width."""
    config = _clip_config(
        "text_encoder_2",
        words=tensors.shape("token_embedding.weight"),
        positions=tensors.width("positional_embedding"),
        layers=tensors.count("transformer.resblocks."),
        inner=tensors.width("transformer.resblocks.0.mlp.c_fc.weight"),
    )
    return {**config, "projection_dim": tensors.shape("text_projection")[1]}


def _clip_config(name: str, words: list[int], positions: int, layers: int, inner: int) -> dict[str, Any]:
    vocabulary, width = words
    if vocabulary != VOCABULARY:
        raise Unavailable(
            f"A text encoder of this file has a vocabulary of {vocabulary:,} entries, and CLIP's has {VOCABULARY:,}. "
            "Choose another checkpoint, or give this one as a diffusers folder with its own tokenizer."
        )
    return {
        **_constants(name),
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": positions,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD),
        "intermediate_size": inner,
    }


# Keys


def _unet_tensors(tensors: dict[str, Tensor], unet: Tensors, config: dict[str, Any]) -> dict[str, Tensor]:
    try:
        converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(tensors, config)
    except KeyError as error:
        raise _incomplete(unet.title, str(error.args[0])) from error
    return _with_leftovers(converted, unet)


def _vae_tensors(tensors: dict[str, Tensor], vae: Tensors, config: dict[str, Any]) -> dict[str, Tensor]:
    own = {VAE + key: value for key, value in vae.named.items() if not key.startswith("loss.")}
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(own, config)
    return converted


def _with_leftovers(converted: dict[str, Tensor], part: Tensors) -> dict[str, Tensor]:
    """diffusers passes over what it does not know; keep it, so that loading names it instead of drawing without it."""
    used = {id(tensor) for tensor in converted.values()}
    return converted | {key: value for key, value in part.named.items() if id(value) not in used}


def _open_clip(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    class _Sized:  # all that the conversion asks of a model
        pass

    model = _Sized()
    model.config = CLIPTextConfig(**config)  # type: ignore[attr-defined]
    converted: dict[str, Tensor] = convert_open_clip_checkpoint(model, tensors, prefix=TEXT_ENCODER_2)
    return converted
