"""LoRA files with random weights for the tiny checkpoints of ``tests.tiny``, in the layouts people have them in.

>>> write_kohya(folder / "style.safetensors")                         # LDM names, as kohya's trainer writes them
>>> write_kohya(folder / "style.safetensors", names="diffusers")
>>> write_peft(folder / "style.safetensors")                          # as diffusers' training scripts save them
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny
from tests.images.diffusion import sgm

KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

PARTS = tuple(KOHYA)


@dataclass(frozen=True)
class Target:
    """A layer that a LoRA may change. ``ldm`` and ``diffusers`` are its names, ``shape`` that of its weight."""

    part: str
    ldm: str
    diffusers: str
    shape: sgm.Shape


def targets(structure: sgm.Structure = tiny.STRUCTURE, parts: Iterable[str] = PARTS) -> Iterator[Target]:
    """Every linear layer and convolution of the parts."""
    for part in parts:
        walk = sgm.unet(structure.unet) if part == "unet" else _text(structure, part)
        for ldm, name, shape in walk:
            if len(shape) > 1 and "embeddings" not in name:
                yield Target(part, ldm.removesuffix(".weight"), name.removesuffix(".weight"), shape)


def _text(structure: sgm.Structure, part: str) -> Iterator[sgm.Layer]:
    """kohya gives both text encoders transformers' names."""
    if part == "text_encoder":
        for name, _, shape in sgm.text(structure.text):
            yield f"text_model.{name}", f"text_model.{name}", shape
    else:
        for name, _, shape in sgm.text(structure.text_2):
            yield f"text_model.{name}", f"text_model.{name}", shape
        projection = (structure.text_2.projection, structure.text_2.width)
        yield "text_projection.weight", "text_projection.weight", projection


def low_rank(shape: sgm.Shape, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``down`` and ``up`` for a weight of this shape, of a size that changes the picture and leaves it one."""
    outputs, inputs, *kernel = shape
    down = torch.randn(rank, inputs, *kernel, generator=generator) / math.sqrt(inputs * math.prod(kernel))
    up = 0.5 * torch.randn(outputs, rank, *(1 for _ in kernel), generator=generator) / math.sqrt(rank)
    return down, up


def write_kohya(
    path: Path,
    layers: Iterable[Target] | None = None,
    names: str = "ldm",
    rank: int = 4,
    alpha: float | None = 2.0,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in targets() if layers is None else layers:
        name = f"{KOHYA[layer.part]}_{getattr(layer, names).replace('.', '_')}"
        down, up = low_rank(layer.shape, rank, generator)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    return path


def write_peft(
    path: Path,
    layers: Iterable[Target] | None = None,
    rank: int = 4,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in targets() if layers is None else layers:
        down, up = low_rank(layer.shape, rank, generator)
        name = f"{layer.part}.{layer.diffusers}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
    return path
