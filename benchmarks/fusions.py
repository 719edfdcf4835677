"""Two things that eager torch does in several passes over memory, put into a UNet as one call each: GroupNorm followed
by SiLU, and the gated unit of the transformers' feed-forward layers (GEGLU, arXiv 2002.05202).

What computes them is given: the kernels of ``triton_kernels.py``, or torch's own functions, which say what is meant.
Compiled UNets need neither, for inductor fuses them itself, with what comes before and after besides.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.replaced import replaced
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

NormAndSilu = Callable[[Tensor, nn.GroupNorm], Tensor]
"""Rows × channels × height × width, and the norm → as much."""

Gated = Callable[[Tensor], Tensor]
"""… × twice the width, values and then gates → … × width."""


def norm_and_silu(given: Tensor, norm: nn.GroupNorm) -> Tensor:
    """By torch: two functions."""
    return functional.silu(functional.group_norm(given, norm.num_groups, norm.weight, norm.bias, norm.eps))


def gated(given: Tensor) -> Tensor:
    """By torch: two functions. The GELU is the exact one."""
    values, gates = given.chunk(2, dim=-1)
    return values * functional.gelu(gates)


def norms_with_silu(unet: nn.Module, kernel: NormAndSilu) -> AbstractContextManager[None]:
    """In all residual blocks, and before the last convolution. The transformers' norms have no SiLU and stay."""
    others: dict[str, nn.Module] = {
        "conv_norm_out": _NormAndSilu(unet.get_submodule("conv_norm_out"), kernel),
        "conv_act": nn.Identity(),
    }
    for name, block in unet.named_modules():
        if isinstance(block, ResnetBlock2D):
            others |= {f"{name}.{norm}": _NormAndSilu(getattr(block, norm), kernel) for norm in ("norm1", "norm2")}
            others[f"{name}.nonlinearity"] = _SiluOfTime()
    return replaced(unet, others)


def gated_units(unet: nn.Module, kernel: Gated) -> AbstractContextManager[None]:
    """In all feed-forward layers. Their linear layers are the same ones, with the hooks that they have (LoRAs)."""
    units = {name: module for name, module in unet.named_modules() if isinstance(module, GEGLU)}
    return replaced(unet, {name: _Gated(unit.proj, kernel) for name, unit in units.items()})


class _NormAndSilu(nn.Module):
    def __init__(self, norm: nn.Module, kernel: NormAndSilu) -> None:
        super().__init__()
        self.norm = norm
        self.kernel = kernel

    def forward(self, given: Tensor) -> Tensor:
        return self.kernel(given, self.norm)


class _SiluOfTime(nn.Module):
    """In the place of a residual block's SiLU, which it asks for pictures and for times (rows × width): those of
    pictures are with the norms now."""

    def forward(self, given: Tensor) -> Tensor:
        return functional.silu(given) if given.ndim == 2 else given


class _Gated(nn.Module):
    def __init__(self, proj: nn.Module, kernel: Gated) -> None:
        super().__init__()
        self.proj = proj
        self.kernel = kernel

    def forward(self, given: Tensor) -> Tensor:
        return self.kernel(self.proj(given))
