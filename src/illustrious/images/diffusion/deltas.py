"""What an adapter adds to a linear layer or a convolution: a change of its weights, in a form smaller than they are.

The weights themselves stay as they are; the change is applied beside them, to the layer's input. So switching to other
adapters costs next to nothing, and without adapters every bit is the model's own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

AnyLayer = nn.Linear | nn.Conv2d


class WrongShape(Exception):
    """The tensors are made for another layer, or do not belong together."""


@dataclass(frozen=True, eq=False)
class Delta(ABC):
    """``tensors`` by their roles; ``scale`` is alpha/rank, by which the trainer scaled their product."""

    tensors: dict[str, Tensor]
    scale: float

    @abstractmethod
    def added_to(self, output: Tensor, layer: AnyLayer, given: Tensor, weight: float) -> Tensor:
        """The ``output`` that the layer had for the input ``given``, with ``weight`` times the change."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """A copy of its own: whatever happens to the mapped file, this stays."""
        placed = {role: tensor.to(device, dtype, copy=True) for role, tensor in self.tensors.items()}
        return replace(self, tensors=placed)


class LowRank(Delta):
    """``up`` · ``down``: LoRA (arXiv 2106.09685).

    For a linear layer ``down`` is rank × inputs and ``up`` outputs × rank. For a convolution they are convolutions
    one after the other: ``down`` rank × inputs with the layer's kernel, ``up`` outputs × rank with none; or, in Tucker
    form, ``mid`` rank × rank has the kernel, and the other two none.
    """

    def added_to(self, output: Tensor, layer: AnyLayer, given: Tensor, weight: float) -> Tensor:
        down, up, factor = self.tensors["down"], self.tensors["up"], weight * self.scale
        if isinstance(layer, nn.Linear):
            return _add_product(output, given.flatten(0, -2) @ down.T, up, factor)
        if "mid" in self.tensors:
            given, down = functional.conv2d(given, down), self.tensors["mid"]
        return output.add(functional.conv2d(_convolve(layer, given, down), up), alpha=factor)


class Dense(Delta):
    """A change computed in full, and anew at every use: kept, it would take as much memory as the layer's weights."""

    @abstractmethod
    def change(self) -> Tensor:
        """As many values as the layer has weights, in their order."""

    def added_to(self, output: Tensor, layer: AnyLayer, given: Tensor, weight: float) -> Tensor:
        change, factor = self.change().reshape(layer.weight.shape), weight * self.scale
        if isinstance(layer, nn.Linear):
            return _add_product(output, given.flatten(0, -2), change, factor)
        return output.add(_convolve(layer, given, change), alpha=factor)

    def _factor(self, name: str) -> Tensor:
        """A factor stored whole, or as ``_a`` · ``_b``, or in Tucker form with a core (``t1``, ``t2``)."""
        if name in self.tensors:
            return self.tensors[name]
        left, right, core = (self.tensors.get(key) for key in (f"{name}_a", f"{name}_b", name.replace("_w", "_t")))
        if left is None or right is None:
            raise WrongShape(f"{name} is missing")
        if core is None:
            return left @ right
        return torch.einsum("ijkl,ip,jr->prkl", core, left, right)


class Hadamard(Dense):
    """The product, element by element, of two matrices of low rank: LoHa (FedPara, arXiv 2108.06098)."""

    FACTORS = ("hada_w2", "hada_w1")

    def change(self) -> Tensor:
        return self._factor("hada_w1") * self._factor("hada_w2")


class Kronecker(Dense):
    """The Kronecker product of two small matrices: LoKr (LyCORIS, arXiv 2309.14859)."""

    FACTORS = ("lokr_w2", "lokr_w1")

    def change(self) -> Tensor:
        first, second = self._factor("lokr_w1"), self._factor("lokr_w2")
        return torch.kron(first.reshape(*first.shape, *(1,) * (second.ndim - first.ndim)), second.contiguous())


def delta(tensors: dict[str, Tensor], alpha: float | None, layer: AnyLayer) -> Delta:
    """The change that these tensors describe. Without ``alpha`` it is not scaled. Raises ``WrongShape``."""
    if "down" in tensors or "up" in tensors:
        return _low_rank(tensors, alpha, layer)
    kind = Hadamard if any(role.startswith("hada_") for role in tensors) else Kronecker
    factors = (tensors.get(f"{name}_b") for name in kind.FACTORS)
    rank = next((len(factor) for factor in factors if factor is not None), None)
    # A Kronecker product of two whole matrices has no rank to be scaled by.
    dense = kind(tensors, 1.0 if alpha is None or rank is None else alpha / rank)
    _check_change(dense, layer)
    return dense


def stacked(changes: list[tuple[Delta, float]]) -> list[tuple[Delta, float]]:
    """The same changes of one layer, each with its weight: all LoRAs as one LoRA of the sum of their ranks, so that
    several cost no more operations than one."""
    alike = [(change, weight) for change, weight in changes if type(change) is LowRank and "mid" not in change.tensors]
    if len(alike) < 2:
        return changes
    down = torch.cat([change.tensors["down"] for change, _ in alike])
    up = torch.cat([change.tensors["up"] * (weight * change.scale) for change, weight in alike], dim=1)
    others = [(change, weight) for change, weight in changes if (change, weight) not in alike]
    return [(LowRank({"down": down, "up": up}, 1.0), 1.0), *others]


def _low_rank(tensors: dict[str, Tensor], alpha: float | None, layer: AnyLayer) -> LowRank:
    if missing := {"down", "up"} - tensors.keys():
        raise WrongShape(f"{missing.pop()} is missing")
    # Trainers store the matrices of linear layers as 1×1 convolutions too, and the other way round.
    flat = isinstance(layer, nn.Linear)
    shaped = {
        role: tensor.flatten(1) if flat else tensor.reshape(*tensor.shape, *(1,) * (4 - tensor.ndim))
        for role, tensor in tensors.items()
    }
    down, up, middle = shaped["down"], shaped["up"], shaped.get("mid")
    rank, outputs, kernel = len(down), len(up), list(down.shape[2:])
    fits = up.shape[1] == rank
    if middle is not None and not flat:
        fits = fits and list(middle.shape[:2]) == [rank, rank] and kernel == [1, 1]
        kernel = list(middle.shape[2:])
    changed, own = [outputs, down.shape[1], *kernel], list(layer.weight.shape)
    if not fits or changed != own:
        raise WrongShape(f"{changed} instead of {own}")
    return LowRank(shaped, 1.0 if alpha is None else alpha / rank)


def _check_change(dense: Dense, layer: AnyLayer) -> None:
    """Computed without values, on the meta device."""
    try:
        change = replace(dense, tensors={role: tensor.to("meta") for role, tensor in dense.tensors.items()}).change()
    except RuntimeError as error:
        raise WrongShape("its matrices cannot be multiplied") from error
    if len(change) != len(layer.weight) or change.numel() != layer.weight.numel():
        raise WrongShape(f"{list(change.shape)} instead of {list(layer.weight.shape)}")


def _add_product(output: Tensor, given: Tensor, matrix: Tensor, factor: float) -> Tensor:
    """``output`` + ``factor`` · ``given`` · ``matrix``ᵀ in one step, rounded once."""
    return torch.addmm(output.flatten(0, -2), given, matrix.T, alpha=factor).view_as(output)


def _convolve(layer: nn.Conv2d, given: Tensor, kernel: Tensor) -> Tensor:
    """As the layer itself does it now: with its stride and padding, and around the edges of a seamless picture."""
    convolved: Tensor = layer._conv_forward(given, kernel, None)
    return convolved
