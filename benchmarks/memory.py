"""How much of a device's memory SDXL takes, counted without a device.

    python benchmarks/memory.py [--size 1024] [--dtype bfloat16]

torch runs the models on its meta device, where tensors have shapes and no values, and every tensor that lives is
counted. What a device adds is missing: its context (some 0.5 GB on CUDA), workspaces of its libraries, gaps between
tensors. Attention counts as its result alone, as kernels that never write out the whole matrix have it. ``gpu.py``
measures the same on a card, under a limit for the process.
"""

import sys

if not __package__:
    sys.path[0] = sys.path[0].removesuffix("/benchmarks")  # as a file: the folder beside it is a package

import argparse
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.flops import TOKENS
from benchmarks.full_size import SDXL, Shapes
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from illustrious.images.diffusion.decode import TILE
from illustrious.images.diffusion.parts import TIME_IDS

META = torch.device("meta")


class Living(TorchDispatchMode):
    """Bytes of the tensors made within it that live ``now``, and at the worst moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(answer):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # else it is a view
                self._born(tensor.untyped_storage())
        return answer

    def _born(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, size)

    def _died(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Need:
    """Bytes: of all weights, of those of the largest layer, and of what is computed, at the worst moment."""

    weights: int
    layer: int
    computed: int


def need(model: nn.Module, work: Callable[[], object]) -> Need:
    """Of one call, with the weights on the meta device."""
    own = [sum(tensor.nbytes for tensor in layer.parameters(recurse=False)) for layer in model.modules()]
    with torch.inference_mode(), _thrifty_attention(), Living() as living:
        work()
    return Need(sum(own), max(own), living.peak)


@contextmanager
def _thrifty_attention() -> Iterator[None]:
    def attention(query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> Tensor:
        return torch.empty_like(query)

    with patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def needs(shapes: Shapes, size: tuple[int, int], dtype: torch.dtype) -> dict[str, Need]:
    """Of the parts of a picture with guidance: both halves are rows of one call."""
    unet, vae, *encoders = (part.to(dtype) for part in shapes.parts)
    width, height = size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device=META, dtype=dtype)

    def step() -> object:
        return unet(
            empty(2, config.in_channels, height // factor, width // factor),
            torch.empty(2, device=META),
            encoder_hidden_states=empty(2, TOKENS, config.cross_attention_dim),
            added_cond_kwargs={"text_embeds": empty(2, pooled), "time_ids": empty(2, TIME_IDS)},
        )

    def read(encoder: nn.Module) -> Callable[[], object]:
        words = torch.zeros(2, TOKENS, dtype=torch.long, device=META)
        return lambda: encoder(words, output_hidden_states=True)

    channels = vae.config.latent_channels
    return {
        **{f"text encoder {number}": need(encoder, read(encoder)) for number, encoder in enumerate(encoders, 1)},
        "UNet, one step of both halves": need(unet, step),
        "VAE, decoding": need(vae, lambda: vae.decode(empty(1, channels, height // factor, width // factor))),
        "VAE, a tile": need(vae, lambda: vae.decode(empty(1, channels, TILE, TILE))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    found = needs(SDXL, (given.size, given.size), getattr(torch, given.dtype))
    print(f"SDXL, {given.size}×{given.size}, {given.dtype}: GB of weights, of the largest layer's, of what is computed")
    for what, one in found.items():
        print(f"{what:32} {one.weights / 1e9:6.3f} {one.layer / 1e9:6.3f} {one.computed / 1e9:6.3f}")
    texts = [one for what, one in found.items() if what.startswith("text")]
    unet, whole, tile = (found[what] for what in ("UNet, one step of both halves", "VAE, decoding", "VAE, a tile"))
    words = sum(one.weights for one in texts)
    for what, most in {
        "all on the device": words + unet.weights + whole.weights + max(unet.computed, whole.computed),
        "decoding in tiles": words + unet.weights + whole.weights + max(unet.computed, tile.computed),
        "text encoders in main memory": unet.weights + whole.weights + max(unet.computed, tile.computed),
        "the VAE, too": unet.weights + max(unet.computed, whole.layer + tile.computed),
        "all in main memory": max(
            unet.layer + unet.computed, whole.layer + tile.computed, *(one.layer + one.computed for one in texts)
        ),
    }.items():
        print(f"{what:32} {most / 1e9:6.2f} GB at the worst moment")


if __name__ == "__main__":
    main()
