"""The LoRAs that act on the model now, and those kept in memory for the next pictures."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from illustrious.images.diffusion.deltas import AnyLayer, Delta, stacked
from illustrious.images.diffusion.lora import LoadedLora, identity, load_lora
from illustrious.images.diffusion.lora_keys import Layer, LayerNames
from illustrious.images.diffusion.recent import Recent

SETS = 4
"""How many sets of LoRAs are kept ready, for pictures that take turns."""

CAPACITY = 2 * 2**30
"""Bytes of LoRAs kept in memory; one of rank 32 has some 200 MB in half precision."""


@dataclass(frozen=True)
class WeightedLora:
    """``weight`` is for the UNet, ``text_weight`` for both text encoders."""

    lora: LoadedLora
    weight: float = 1.0
    text_weight: float = 1.0

    def weight_in(self, part: str) -> float:
        return self.weight if part == "unet" else self.text_weight


Loras = tuple[WeightedLora, ...]


class Adapters:
    """The LoRAs of one model. ``prediction`` is the model's prediction type, in diffusers' words.

    LoRAs act through forward hooks that exist only while they act: the model's weights are never touched.
    """

    def __init__(
        self, unet: Any, text_encoders: tuple[Any, Any], prediction: str = "epsilon", capacity: int = CAPACITY
    ) -> None:
        first, second = text_encoders
        self._names = LayerNames({"unet": unet, "text_encoder": first, "text_encoder_2": second})
        # Where it is computed: a UNet that is later kept in main memory still is.
        self._device, self._dtype = unet.device, unet.dtype
        self._prediction = prediction
        self._kept: Recent[LoadedLora] = Recent(capacity, lambda lora: lora.size)
        self._acting: Loras = ()
        self._places = [_Place(self._names.modules)]

    def load(self, path: Path, name: str | None = None) -> LoadedLora:
        """The LoRA at ``path``, from memory where it is kept there and its file is the same as then.

        Raises ``InvalidRequest`` for one that cannot act on this model.
        """
        return self._kept.get(
            identity(path), lambda: load_lora(path, self._names, self._prediction, self._device, self._dtype, name)
        )

    def forget(self) -> None:
        """Nothing acts any more, and nothing is kept in memory."""
        self.use(())
        for place in self._places:
            place.changes.clear()
        self._kept.clear()

    def use(self, loras: Loras) -> list[str]:
        """From now on exactly these act, in this order. Returns what the user should know of them."""
        if loras != self._acting:
            for place in self._places:
                place.use(loras)
            self._acting = loras
        return [warning for used in loras for warning in used.lora.warnings]

    def act_on(self, copy: Any) -> None:
        """From now on LoRAs act on this copy of the UNet as well, in its dtype."""
        modules = {Layer("unet", name): module for name, module in copy.named_modules()}
        place = _Place({layer: modules[layer] for layer in self._names.modules if layer in modules}, copy.dtype)
        place.use(self._acting)
        self._places.append(place)


class _Place:
    """Where LoRAs act: layers, in their own ``dtype`` where that is not the one they were loaded in."""

    def __init__(self, modules: dict[Layer, AnyLayer], dtype: torch.dtype | None = None) -> None:
        self.changes: Recent[dict[Layer, list[tuple[Delta, float]]]] = Recent(SETS, lambda changes: 1)
        self._modules = modules
        self._dtype = dtype
        self._hooks: list[RemovableHandle] = []

    def use(self, loras: Loras) -> None:
        for hook in self._hooks:
            hook.remove()
        changes = self.changes.get(loras, lambda: self._changes(loras))
        self._hooks = [self._modules[layer].register_forward_hook(_adding(its)) for layer, its in changes.items()]

    def _changes(self, loras: Loras) -> dict[Layer, list[tuple[Delta, float]]]:
        """What happens to each layer: changes and their weights."""
        here = {layer: its for layer, its in _changes(loras).items() if layer in self._modules}
        if self._dtype is None:
            return here
        return {
            layer: [(change.to(self._modules[layer].weight.device, self._dtype), weight) for change, weight in its]
            for layer, its in here.items()
        }


def text_key(loras: Loras) -> Hashable:
    """What the encoded prompts depend on: with equal keys they are equal."""
    return tuple(
        (used.lora.identity, used.text_weight) for used in loras if used.text_weight and used.lora.changes_text
    )


def _changes(loras: Loras) -> dict[Layer, list[tuple[Delta, float]]]:
    """What happens to each layer: changes and their weights."""
    changes: dict[Layer, list[tuple[Delta, float]]] = defaultdict(list)
    for used in loras:
        for layer, change in used.lora.deltas.items():
            if weight := used.weight_in(layer.part):
                changes[layer].append((change, weight))
    return {layer: stacked(several) for layer, several in changes.items()}


def _adding(changes: list[tuple[Delta, float]]) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    def hook(layer: AnyLayer, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for change, weight in changes:
            output = change.added_to(output, layer, given[0], weight)
        return output

    return hook
