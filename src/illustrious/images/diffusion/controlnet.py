"""ControlNet (arXiv 2302.05543): copies of the UNet's first half that guide it by a picture.

A file or folder is opened as a ``Part`` like those of a checkpoint. What its shapes and configuration do not tell is
taken from the UNet that it guides, of which it is a copy.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from illustrious.catalog.folder import read_json
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion.folder import weights_in
from illustrious.images.diffusion.ldm_names import ldm_names
from illustrious.images.diffusion.parts import Part
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.recent import Recent
from illustrious.images.diffusion.single_file import Tensors
from illustrious.images.diffusion.weights import assemble, read
from illustrious.pictures import open_picture, to_rgb

REMEDY = "Download the ControlNet again, or choose another one for SDXL."

PREFIX = "control_model."

OTHERS = {
    "lllite_": "a ControlNet-LLLite",
    "lora_controlnet": "a Control-LoRA",
    "task_embedding": "a ControlNet-Union",
    "control_add_embedding.": "a ControlNet-Union",
    "adapter.": "a T2I-Adapter",
    "body.": "a T2I-Adapter",
    "ip_adapter.": "an IP-Adapter",
    "lora_unet_": "a LoRA",
    "model.diffusion_model.": "a checkpoint",
}
"""What keys begin with in files that people take for ControlNets, and what those are."""

CAPACITY = 6 * 2**30
"""Bytes of ControlNets kept in memory: two of SDXL's in half precision."""


class ControlNets:
    """The ControlNets of one UNet. ``factor`` is the model's pixels per latent along an edge."""

    def __init__(self, unet: Any, placement: Placement, factor: int, capacity: int = CAPACITY) -> None:
        self._unet = unet
        self._placement = placement
        self._factor = factor
        self._kept: Recent[Any] = Recent(capacity, lambda model: int(model.get_memory_footprint()))

    def load(self, path: Path, name: str | None = None) -> Any:
        """The ControlNet at ``path``: a ``.safetensors`` file or a diffusers folder; from memory where it is there.

        Raises ``InvalidRequest`` for anything that cannot guide this UNet, saying what it is.
        """
        name = name or path.name.removesuffix(".safetensors")
        try:
            written = path.stat().st_mtime_ns
            return self._kept.get((path, written), lambda: self._load(path, name))
        except OSError as error:
            raise _refused(f"The ControlNet {name} cannot be read ({error.strerror}). Check {path}.") from error
        except Unavailable as error:
            raise _refused(f"The ControlNet {name} cannot be used: {error}") from error

    def forget(self) -> None:
        """Give the memory back; they are loaded again when they are asked for."""
        self._kept.clear()

    def _load(self, path: Path, name: str) -> Any:
        part = open_controlnet(path, name, self._unet)
        pixels = 2 ** (len(part.config["conditioning_embedding_out_channels"]) - 1)
        if pixels != self._factor:
            raise _refused(
                f"The ControlNet {name} is made for latents of 1/{pixels} of the picture's size, and this model has "
                f"1/{self._factor}. Choose one that was trained for this model."
            )
        return assemble(part, self._placement)


def open_controlnet(path: Path, name: str, unet: Any) -> Part:
    """The ControlNet at ``path``, mapped but not yet read.

    Raises ``InvalidRequest`` for one of another kind or family, ``Unavailable`` for one that is damaged.
    """
    if path.is_dir():
        kind = read_json(path / "config.json").get("_class_name")
        if kind != "ControlNetModel":
            raise _refused(f"{name} is a {kind}, and this engine guides pictures by plain ControlNets only. {REMEDY}")
        own = read_json(path / "config.json")
        tensors = weights_in(path, "diffusion_pytorch_model", REMEDY)
    elif path.suffix.lower() == ".safetensors":
        own = {}
        tensors = read(path, REMEDY)[0]
    else:
        raise _refused(
            f"The ControlNet {name} is no .safetensors file ({path.name}), and other formats could run any code when "
            "opened. Use the .safetensors file of the same ControlNet."
        )
    tensors = _diffusers_keys({key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}, unet)
    _check_is_sdxl_controlnet(name, tensors)
    title = f"ControlNet {name}"
    config = {**unet.config, **_config_of(Tensors(title, "", tensors)), **own}
    _check_fits(name, config, unet.config)
    return Part(title, "ControlNetModel", config, tensors, REMEDY)


def _check_is_sdxl_controlnet(name: str, tensors: dict[str, Tensor]) -> None:
    for beginning, what in OTHERS.items():
        if any(key.startswith(beginning) for key in tensors):
            raise _refused(f"{name} is {what}, and this engine guides pictures by plain ControlNets only. {REMEDY}")
    if "controlnet_cond_embedding.conv_in.weight" not in tensors:
        raise _refused(f"{name} is no ControlNet of the Stable Diffusion family. {REMEDY}")
    if "add_embedding.linear_1.weight" not in tensors:
        raise _refused(f"{name} is a ControlNet of another family (Stable Diffusion 1 or 2?). {REMEDY}")


def _check_fits(name: str, config: dict[str, Any], unet: Any) -> None:
    for key, what in (
        ("block_out_channels", "channels"),
        ("layers_per_block", "layers per level"),
        ("cross_attention_dim", "values per word of the prompt"),
        ("projection_class_embeddings_input_dim", "conditions beside the prompt"),
    ):
        own, needed = ([*value] if isinstance(value, list | tuple) else value for value in (config[key], unet[key]))
        if own != needed:
            raise _refused(
                f"The ControlNet {name} does not fit this model: it has {own} {what} instead of {needed}. {REMEDY}"
            )


def _diffusers_keys(tensors: dict[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """Files in LDM's names (``cldm/cldm.py`` of github.com/lllyasviel/ControlNet) in those of diffusers."""
    if "time_embed.0.weight" not in tensors:
        return tensors
    names = {ldm: name for name, ldm in ldm_names(unet).items()}
    # The convolutions that read the picture are numbered together with the activations between them.
    hints = sorted({int(match[1]) for key in tensors if (match := re.match(r"input_hint_block\.(\d+)\.", key))})
    ends = {0: "conv_in", len(hints) - 1: "conv_out"}
    for place, number in enumerate(hints):
        own = ends.get(place, f"blocks.{place - 1}")
        names[f"input_hint_block.{number}"] = f"controlnet_cond_embedding.{own}"
    names["middle_block_out.0"] = "controlnet_mid_block"
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        layer = re.sub(r"^zero_convs\.(\d+)\.0$", r"controlnet_down_blocks.\1", names.get(layer, layer))
        renamed[f"{layer}.{kind}"] = tensor
    return renamed


def _config_of(tensors: Tensors) -> dict[str, Any]:
    """What the shapes tell, in diffusers' terms."""
    levels = range(tensors.count("down_blocks."))
    depths = [tensors.count(f"down_blocks.{level}.attentions.0.transformer_blocks.") for level in levels]
    middle = tensors.count("mid_block.attentions.0.transformer_blocks.")
    hint = "controlnet_cond_embedding"
    widenings = range(1, tensors.count(f"{hint}.blocks."), 2)
    attention = next((key for key in tensors.named if key.endswith("attn2.to_k.weight")), None)
    return {
        "block_out_channels": [tensors.width(f"down_blocks.{level}.resnets.0.conv1.weight") for level in levels],
        "layers_per_block": tensors.count("down_blocks.0.resnets."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        # A level without attention is still given a depth of 1, which diffusers reads nowhere.
        "transformer_layers_per_block": [max(1, depth) for depth in (*depths[:-1], middle or depths[-1])],
        "in_channels": tensors.shape("conv_in.weight")[1],
        "conditioning_channels": tensors.shape(f"{hint}.conv_in.weight")[1],
        "conditioning_embedding_out_channels": [
            tensors.width(f"{hint}.conv_in.weight"),
            *(tensors.width(f"{hint}.blocks.{number}.weight") for number in widenings),
        ],
        "projection_class_embeddings_input_dim": tensors.shape("add_embedding.linear_1.weight")[1],
        **({"cross_attention_dim": tensors.shape(attention)[1]} if attention else {}),
    }


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="control")


# At work


@dataclass(frozen=True)
class Guide:
    """A ControlNet and the picture it follows (1 × 3 × height × width, 0 … 1), from ``start`` to ``end`` of all turns.

    A turn is one call of the UNet; samplers of second order take two a step.
    """

    model: Any
    image: Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def acts(self, turn: int, turns: int) -> bool:
        """As in diffusers: a turn counts when it lies between start and end as a whole."""
        return self.weight != 0 and turn / turns >= self.start and (turn + 1) / turns <= self.end


@dataclass(frozen=True)
class Residuals:
    """What is added to the UNet's skip connections and to its middle, for every row."""

    down: tuple[Tensor, ...]
    middle: Tensor

    def __add__(self, other: "Residuals") -> "Residuals":
        down = tuple(one + another for one, another in zip(self.down, other.down, strict=True))
        return Residuals(down, self.middle + other.middle)

    @property
    def named(self) -> dict[str, Any]:
        """By the names of the UNet's arguments."""
        return {"down_block_additional_residuals": self.down, "mid_block_additional_residual": self.middle}

    @property
    def rows(self) -> "list[Residuals]":
        """Each row by itself."""
        rows = len(self.middle)
        down = zip(*(torch.chunk(each, rows) for each in self.down), strict=True)
        return [Residuals(*row) for row in zip(down, torch.chunk(self.middle, rows), strict=True)]


def stacked(rows: Sequence[Residuals]) -> Residuals | None:
    """All rows as one; ``None`` when there are none."""
    if not rows:
        return None
    down = tuple(torch.cat(each) for each in zip(*(row.down for row in rows), strict=True))
    return Residuals(down, torch.cat([row.middle for row in rows]))


def control_image(
    data: bytes,
    size: tuple[int, int],
    placement: Placement,
    max_pixels: int,
    frame: Callable[[Image.Image], Image.Image] = lambda picture: picture,
) -> Tensor:
    """The picture in ``data`` for a ``Guide``: the part of it that ``frame`` takes, resized to ``size`` (width and
    height of the picture drawn, in pixels).

    Raises ``InvalidRequest`` and ``TooLarge``.
    """
    try:
        picture = frame(to_rgb(open_picture(data, max_pixels)))
    except InvalidRequest as error:
        raise _refused(f"A control image cannot be used: {error}") from error
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(placement.device, placement.dtype)


def residuals(
    guides: Sequence[Guide],
    sample: Tensor,
    timestep: Tensor,
    embeddings: Tensor,
    pooled: Tensor,
    sizes: Tensor,
    turn: int,
    turns: int,
) -> Residuals | None:
    """What the guides add to the UNet's call for one picture at this turn of all its turns; ``None`` for nothing.

    The other arguments are the UNet's own: ``sample`` rows × channels × height × width (an inpainting UNet's further
    channels are left out), ``embeddings`` rows × tokens × width, ``pooled`` rows × width, ``sizes`` rows × 6.
    """
    total = None
    for guide in guides:
        if guide.acts(turn, turns):
            down, middle = guide.model(
                sample[:, : guide.model.config.in_channels],
                timestep,
                encoder_hidden_states=embeddings,
                controlnet_cond=guide.image,
                conditioning_scale=guide.weight,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
                return_dict=False,
            )
            given = Residuals(tuple(down), middle)
            total = given if total is None else total + given
    return total
