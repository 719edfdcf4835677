"""SDXL as Stability AI's own code writes it down: every LDM key with its shape, and where diffusers keeps the same.

Walked from the structure of the published modules (github.com/Stability-AI/generative-models:
``sgm/modules/diffusionmodules/openaimodel.py`` and ``model.py``, ``sgm/modules/attention.py``; open_clip's
``transformer.py``), so that tests can hold the engine's reading of a file against something it was not made from.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]
Layer = tuple[str, str, Shape]
"""LDM name, diffusers name, shape in the LDM file."""


@dataclass(frozen=True)
class UNet:
    """In the terms of openaimodel.py's arguments; depths are listed block by block, as ComfyUI does.

    ``depth_middle`` −1 is a middle of a single residual block.
    """

    model_channels: int = 320
    channel_mult: Shape = (1, 2, 4)
    num_res_blocks: int = 2
    depth_in: Shape = (0, 0, 2, 2, 10, 10)
    depth_middle: int = 10
    depth_out: Shape = (10, 10, 10, 2, 2, 2, 0, 0, 0)  # in the order of the output blocks
    in_channels: int = 4
    context_dim: int = 2048
    adm_in_channels: int = 2816


@dataclass(frozen=True)
class Autoencoder:
    ch: int = 128
    ch_mult: Shape = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4


@dataclass(frozen=True)
class Text:
    width: int
    layers: int
    projection: int
    tokens: int = 49_408
    positions: int = 77


@dataclass(frozen=True)
class Structure:
    unet: UNet = UNet()
    vae: Autoencoder = Autoencoder()
    text: Text = Text(width=768, layers=12, projection=768)
    text_2: Text = Text(width=1280, layers=32, projection=1280)


def pair(ldm: str, diffusers: str, weight: Shape, bias: bool = True) -> Iterator[Layer]:
    yield f"{ldm}.weight", f"{diffusers}.weight", weight
    if bias:
        yield f"{ldm}.bias", f"{diffusers}.bias", weight[:1]


def residual(ldm: str, diffusers: str, before: int, after: int, time: int) -> Iterator[Layer]:
    yield from pair(f"{ldm}.in_layers.0", f"{diffusers}.norm1", (before,))
    yield from pair(f"{ldm}.in_layers.2", f"{diffusers}.conv1", (after, before, 3, 3))
    yield from pair(f"{ldm}.emb_layers.1", f"{diffusers}.time_emb_proj", (after, time))
    yield from pair(f"{ldm}.out_layers.0", f"{diffusers}.norm2", (after,))
    yield from pair(f"{ldm}.out_layers.3", f"{diffusers}.conv2", (after, after, 3, 3))
    if before != after:
        yield from pair(f"{ldm}.skip_connection", f"{diffusers}.conv_shortcut", (after, before, 1, 1))


def transformer(ldm: str, diffusers: str, width: int, depth: int, context: int) -> Iterator[Layer]:
    yield from pair(f"{ldm}.norm", f"{diffusers}.norm", (width,))
    yield from pair(f"{ldm}.proj_in", f"{diffusers}.proj_in", (width, width))
    for number in range(depth):
        for name, seen in (("attn1", width), ("attn2", context)):
            old, new = (f"{owner}.transformer_blocks.{number}.{name}" for owner in (ldm, diffusers))
            yield from pair(f"{old}.to_q", f"{new}.to_q", (width, width), bias=False)
            yield from pair(f"{old}.to_k", f"{new}.to_k", (width, seen), bias=False)
            yield from pair(f"{old}.to_v", f"{new}.to_v", (width, seen), bias=False)
            yield from pair(f"{old}.to_out.0", f"{new}.to_out.0", (width, width))
        old, new = (f"{owner}.transformer_blocks.{number}" for owner in (ldm, diffusers))
        yield from pair(f"{old}.ff.net.0.proj", f"{new}.ff.net.0.proj", (8 * width, width))
        yield from pair(f"{old}.ff.net.2", f"{new}.ff.net.2", (width, 4 * width))
        for norm in ("norm1", "norm2", "norm3"):
            yield from pair(f"{old}.{norm}", f"{new}.{norm}", (width,))
    yield from pair(f"{ldm}.proj_out", f"{diffusers}.proj_out", (width, width))


def unet(structure: UNet) -> Iterator[Layer]:
    """openaimodel.UNetModel."""
    channels, time = structure.model_channels, 4 * structure.model_channels
    per_level, context = structure.num_res_blocks, structure.context_dim
    yield from pair("time_embed.0", "time_embedding.linear_1", (time, channels))
    yield from pair("time_embed.2", "time_embedding.linear_2", (time, time))
    yield from pair("label_emb.0.0", "add_embedding.linear_1", (time, structure.adm_in_channels))
    yield from pair("label_emb.0.2", "add_embedding.linear_2", (time, time))
    yield from pair("input_blocks.0.0", "conv_in", (channels, structure.in_channels, 3, 3))
    skips, width, block = [channels], channels, 1
    for level, mult in enumerate(structure.channel_mult):
        for layer in range(per_level):
            old, new = f"input_blocks.{block}", f"down_blocks.{level}"
            yield from residual(f"{old}.0", f"{new}.resnets.{layer}", width, mult * channels, time)
            width = mult * channels
            if depth := structure.depth_in[level * per_level + layer]:
                yield from transformer(f"{old}.1", f"{new}.attentions.{layer}", width, depth, context)
            skips.append(width)
            block += 1
        if level + 1 < len(structure.channel_mult):
            conv = (width, width, 3, 3)
            yield from pair(f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv", conv)
            skips.append(width)
            block += 1
    yield from residual("middle_block.0", "mid_block.resnets.0", width, width, time)
    if structure.depth_middle > 0:
        yield from transformer("middle_block.1", "mid_block.attentions.0", width, structure.depth_middle, context)
        yield from residual("middle_block.2", "mid_block.resnets.1", width, width, time)
    block = 0
    for level, mult in enumerate(reversed(structure.channel_mult)):
        for layer in range(per_level + 1):
            old, new = f"output_blocks.{block}", f"up_blocks.{level}"
            yield from residual(f"{old}.0", f"{new}.resnets.{layer}", width + skips.pop(), mult * channels, time)
            width = mult * channels
            if depth := structure.depth_out[block]:
                yield from transformer(f"{old}.1", f"{new}.attentions.{layer}", width, depth, context)
            if layer == per_level and level + 1 < len(structure.channel_mult):
                place = 2 if depth else 1
                yield from pair(f"{old}.{place}.conv", f"{new}.upsamplers.0.conv", (width, width, 3, 3))
            block += 1
    yield from pair("out.0", "conv_norm_out", (width,))
    yield from pair("out.2", "conv_out", (4, width, 3, 3))


def autoencoder(structure: Autoencoder) -> Iterator[Layer]:
    """AutoencoderKL: model.Encoder and model.Decoder."""

    def block(ldm: str, diffusers: str, before: int, after: int) -> Iterator[Layer]:
        yield from pair(f"{ldm}.norm1", f"{diffusers}.norm1", (before,))
        yield from pair(f"{ldm}.conv1", f"{diffusers}.conv1", (after, before, 3, 3))
        yield from pair(f"{ldm}.norm2", f"{diffusers}.norm2", (after,))
        yield from pair(f"{ldm}.conv2", f"{diffusers}.conv2", (after, after, 3, 3))
        if before != after:
            yield from pair(f"{ldm}.nin_shortcut", f"{diffusers}.conv_shortcut", (after, before, 1, 1))

    def middle(half: str, width: int) -> Iterator[Layer]:
        yield from block(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", width, width)
        yield from pair(f"{half}.mid.attn_1.norm", f"{half}.mid_block.attentions.0.group_norm", (width,))
        for old, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            name = f"{half}.mid_block.attentions.0.{new}"
            yield from pair(f"{half}.mid.attn_1.{old}", name, (width, width, 1, 1))
        yield from block(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", width, width)

    widths, z = [mult * structure.ch for mult in structure.ch_mult], structure.z_channels
    last = len(widths) - 1
    yield from pair("encoder.conv_in", "encoder.conv_in", (widths[0], 3, 3, 3))
    before = widths[0]
    for level, width in enumerate(widths):
        for layer in range(structure.num_res_blocks):
            names = f"encoder.down.{level}.block.{layer}", f"encoder.down_blocks.{level}.resnets.{layer}"
            yield from block(*names, before, width)
            before = width
        if level != last:
            names = f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv"
            yield from pair(*names, (width, width, 3, 3))
    yield from middle("encoder", before)
    yield from pair("encoder.norm_out", "encoder.conv_norm_out", (before,))
    yield from pair("encoder.conv_out", "encoder.conv_out", (2 * z, before, 3, 3))
    yield from pair("quant_conv", "quant_conv", (2 * z, 2 * z, 1, 1))
    yield from pair("post_quant_conv", "post_quant_conv", (z, z, 1, 1))
    yield from pair("decoder.conv_in", "decoder.conv_in", (before, z, 3, 3))
    yield from middle("decoder", before)
    for level in reversed(range(len(widths))):
        for layer in range(structure.num_res_blocks + 1):
            names = f"decoder.up.{level}.block.{layer}", f"decoder.up_blocks.{last - level}.resnets.{layer}"
            yield from block(*names, before, widths[level])
            before = widths[level]
        if level:
            names = f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{last - level}.upsamplers.0.conv"
            yield from pair(*names, (before, before, 3, 3))
    yield from pair("decoder.norm_out", "decoder.conv_norm_out", (before,))
    yield from pair("decoder.conv_out", "decoder.conv_out", (3, before, 3, 3))


def text(structure: Text) -> Iterator[Layer]:
    """OpenAI's CLIP as transformers names it: FrozenCLIPEmbedder keeps those names (below ``text_model.``)."""
    width = structure.width
    names = [("embeddings.token_embedding.weight", (structure.tokens, width))]
    names += [("embeddings.position_embedding.weight", (structure.positions, width))]
    for number in range(structure.layers):
        layer = f"encoder.layers.{number}"
        shapes: list[tuple[str, Shape]] = [(f"self_attn.{name}_proj", (width,) * 2) for name in ("q", "k", "v", "out")]
        shapes += [("layer_norm1", (width,)), ("layer_norm2", (width,))]
        shapes += [("mlp.fc1", (4 * width, width)), ("mlp.fc2", (width, 4 * width))]
        for name, shape in shapes:
            names += [(f"{layer}.{name}.weight", shape), (f"{layer}.{name}.bias", shape[:1])]
    names += [("final_layer_norm.weight", (width,)), ("final_layer_norm.bias", (width,))]
    return ((name, name, shape) for name, shape in names)


def text_2(structure: Text) -> Iterator[Layer]:
    """open_clip's text transformer. ``in_proj`` holds query, key and value below one another; ``:n`` marks third n."""
    width, inner = structure.width, "text_model."
    yield "token_embedding.weight", f"{inner}embeddings.token_embedding.weight", (structure.tokens, width)
    yield "positional_embedding", f"{inner}embeddings.position_embedding.weight", (structure.positions, width)
    for number in range(structure.layers):
        old, new = f"transformer.resblocks.{number}", f"{inner}encoder.layers.{number}"
        yield from pair(f"{old}.ln_1", f"{new}.layer_norm1", (width,))
        for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
            yield f"{old}.attn.in_proj_weight:{third}", f"{new}.self_attn.{name}.weight", (3 * width, width)
            yield f"{old}.attn.in_proj_bias:{third}", f"{new}.self_attn.{name}.bias", (3 * width,)
        yield from pair(f"{old}.attn.out_proj", f"{new}.self_attn.out_proj", (width, width))
        yield from pair(f"{old}.ln_2", f"{new}.layer_norm2", (width,))
        yield from pair(f"{old}.mlp.c_fc", f"{new}.mlp.fc1", (4 * width, width))
        yield from pair(f"{old}.mlp.c_proj", f"{new}.mlp.fc2", (width, 4 * width))
    yield from pair("ln_final", f"{inner}final_layer_norm", (width,))
    yield "text_projection", "text_projection.weight", (width, structure.projection)


PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.text_model.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}


def layers(structure: Structure) -> dict[str, list[Layer]]:
    """Every layer of a checkpoint, under the four parts' names; LDM names with their prefixes."""
    walks = {
        "unet": unet(structure.unet),
        "vae": autoencoder(structure.vae),
        "text_encoder": text(structure.text),
        "text_encoder_2": text_2(structure.text_2),
    }
    return {part: [(PREFIXES[part] + old, new, shape) for old, new, shape in walk] for part, walk in walks.items()}


def ldm_shapes(structure: Structure) -> dict[str, Shape]:
    """Every tensor of the single file. ``logit_scale`` is there too, and belongs to no model of SDXL's pictures."""
    named = {old.partition(":")[0]: shape for walk in layers(structure).values() for old, _, shape in walk}
    return {**named, PREFIXES["text_encoder_2"] + "logit_scale": ()}


def diffusers_tensors(structure: Structure, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The single file's tensors, part by part, under diffusers' names and in the shapes diffusers gives them."""
    return {
        part: {new: diffusers_tensor(old, new, tensors) for old, new, _ in walk}
        for part, walk in layers(structure).items()
    }


def diffusers_tensor(old: str, new: str, tensors: dict[str, Tensor]) -> Tensor:
    name, _, third = old.partition(":")
    tensor = tensors[name]
    if third:
        return tensor.chunk(3)[int(third)]
    if name.endswith("text_projection"):
        return tensor.T
    if "mid_block.attentions" in new and tensor.ndim == 4:
        return tensor[:, :, 0, 0]  # a 1×1 convolution is a linear layer
    return tensor
