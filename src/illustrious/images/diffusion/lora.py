"""LoRA files: read, matched with the model's layers, kept in memory while there is room.

kohya's layout (with LDM's or diffusers' names) and PEFT's and diffusers'; LoRA, LoCon, LoHa and LoKr. Files say by
metadata what they were trained on: kohya's ``ss_base_model_version`` (github.com/kohya-ss/sd-scripts), ModelSpec's
``modelspec.architecture``, and the model's prediction as ``catalog.prediction`` reads it.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from illustrious.catalog.library import SHIPPED_LORAS
from illustrious.catalog.prediction import in_metadata
from illustrious.checksums import verify
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.images.diffusion.deltas import Delta, WrongShape, delta
from illustrious.images.diffusion.lora_keys import Layer, LayerNames, split
from illustrious.images.diffusion.weights import finite, read

UNSUPPORTED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "diff": "full-weight difference",
    "diff_b": "full-weight difference",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "on_input": "(IA)³",
    "a1": "GLoRA",
    "a2": "GLoRA",
    "b1": "GLoRA",
    "b2": "GLoRA",
}
"""Roles of tensors in kinds of adapters that are not applied here."""

PREDICTED = {"epsilon": "noise (epsilon)", "v_prediction": "velocity (v)"}

OWN_FAMILY = re.compile(r"xl|illustrious|pony|noob", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class LoadedLora:
    """A LoRA that fits the model. ``identity`` changes when its file does; ``size`` is in bytes of memory.

    ``warnings`` are what the user should know of it whenever it is used.
    """

    name: str
    identity: tuple[str, int, int]
    deltas: dict[Layer, Delta]
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for change in self.deltas.values() for tensor in change.tensors.values())

    @cached_property
    def changes_text(self) -> bool:
        return any(layer.part != "unet" for layer in self.deltas)


def identity(path: Path) -> tuple[str, int, int]:
    """Where the file lies, when it was written, and its size. Raises ``InvalidRequest`` when it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise _refused(f"The LoRA {path.stem} cannot be read ({error.strerror}). Check the file {path}.") from error
    return str(path), status.st_mtime_ns, status.st_size


def load_lora(
    path: Path, names: LayerNames, prediction: str, device: torch.device, dtype: torch.dtype, name: str | None = None
) -> LoadedLora:
    """The LoRA at ``path``, ready for the model that ``names`` and ``prediction`` are of.

    ``prediction`` is ``epsilon`` or ``v_prediction``. Raises ``InvalidRequest`` for anything that cannot act on this
    model, saying what it is.
    """
    name = name or path.stem
    if path.suffix.lower() != ".safetensors":
        raise _refused(
            f"The LoRA {name} is no .safetensors file ({path.name}), and other formats could run any code when opened. "
            "Use the .safetensors file of the same LoRA."
        )
    file = identity(path)
    if path.parent == SHIPPED_LORAS:
        _verify(path, name)
    try:
        tensors, metadata = read(path, remedy="Download the LoRA again, or leave it out.")
    except Unavailable as error:
        raise _refused(f"The LoRA {name} cannot be used: {error}") from error
    grouped, unmatched = _by_layer(name, tensors, names, metadata)
    alphas = _Alphas(metadata, path)
    deltas = {}
    for layer, roles in grouped.items():
        alpha = roles.pop("alpha", None)
        known = alphas.of(layer, roles) if alpha is None else float(alpha)
        try:
            change = delta(roles, known, names.modules[layer]).to(device, dtype)
        except WrongShape as error:
            raise _of_another_family(name, metadata, f"{layer.name}: {error}") from error
        if not all(map(finite, change.tensors.values())):
            raise _refused(
                f"The LoRA {name} holds values that are no numbers in {dtype} ({layer.name}): the file is damaged. "
                "Download it again, or leave it out."
            )
        deltas[layer] = change
    warnings = [*_mismatches(name, metadata, prediction), *_left_out(name, unmatched, len(tensors))]
    return LoadedLora(name, file, deltas, tuple(warnings))


def _verify(path: Path, name: str) -> None:
    try:
        verify(path.parent, f"The LoRA {name}", only=path.name)
    except Unavailable as error:
        raise _refused(str(error)) from error


def _by_layer(
    name: str, tensors: dict[str, Tensor], names: LayerNames, metadata: dict[str, str]
) -> tuple[dict[Layer, dict[str, Tensor]], list[str]]:
    """Layer → its tensors by role, and the keys that match nothing in the model."""
    grouped: dict[Layer, dict[str, Tensor]] = defaultdict(dict)
    unmatched = []
    is_lora = False
    for key, tensor in tensors.items():
        found = split(key)
        is_lora = is_lora or found is not None
        layer = names.find(found[0]) if found else None
        if found is None or layer is None or found[1] in grouped[layer]:
            unmatched.append(key)
        elif found[1] in UNSUPPORTED:
            raise _refused(
                f"The LoRA {name} is of the kind {UNSUPPORTED[found[1]]}, which this engine does not apply. "
                "Use a LoRA, LoCon, LoHa or LoKr of the same thing, or leave it out."
            )
        else:
            grouped[layer][found[1]] = tensor
    if not is_lora:
        raise _refused(f"{name} is no LoRA: none of its keys is of the kind that LoRAs have. Choose another file.")
    complete = {layer: roles for layer, roles in grouped.items() if roles.keys() - {"alpha"}}
    if not complete:
        raise _of_another_family(name, metadata, f"no layer has its names, such as {next(iter(tensors))}")
    return complete, unmatched


class _Alphas:
    """What the trainer's settings say of alpha, where the tensors do not: PEFT's, which diffusers writes into the
    file's metadata and PEFT into ``adapter_config.json`` beside the file."""

    def __init__(self, metadata: dict[str, str], path: Path) -> None:
        self._settings = _json(metadata.get("lora_adapter_metadata", "{}"))
        beside = path.with_name("adapter_config.json")
        if not self._settings and beside.is_file():
            self._settings = _json(beside.read_text("utf-8", errors="replace"))

    def of(self, layer: Layer, roles: dict[str, Tensor]) -> float | None:
        own = {key.removeprefix(f"{layer.part}."): value for key, value in self._settings.items()}
        # PEFT reads these as regular expressions; in files they are names, and no file shall make us match patterns.
        exceptions = (own.get("alpha_pattern") or {}).items()
        fitting = (alpha for name, alpha in exceptions if f".text_model.{layer.name}".endswith(f".{name.strip('^')}"))
        alpha = next(fitting, own.get("lora_alpha", own.get("alpha")))
        if not isinstance(alpha, int | float):
            return None
        # Rank-stabilised LoRA (arXiv 2312.03732) divides by the root of the rank.
        return alpha * math.sqrt(len(roles["down"])) if own.get("use_rslora") and "down" in roles else float(alpha)


def _json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _mismatches(name: str, metadata: dict[str, str], prediction: str) -> Iterator[str]:
    base = _base_model(metadata)
    if base and not OWN_FAMILY.search(base):
        yield f"The LoRA {name} says that it was made for {base}, not for SDXL: its effect may be another than meant."
    trained = in_metadata(metadata)
    if trained is not None and trained.type != prediction:
        yield (
            f"The LoRA {name} was trained on a model that predicts {PREDICTED.get(trained.type, trained.type)}, and "
            f"this one predicts {PREDICTED.get(prediction, prediction)}: its effect may be another than meant."
        )


def _base_model(metadata: dict[str, str]) -> str:
    return metadata.get("ss_base_model_version") or metadata.get("modelspec.architecture", "")


def _left_out(name: str, unmatched: list[str], total: int) -> Iterator[str]:
    if unmatched:
        yield (
            f"The LoRA {name} was applied without {len(unmatched)} of its {total} tensors, which belong to no layer "
            f"of this model (the first is {unmatched[0]})."
        )


def _of_another_family(name: str, metadata: dict[str, str], what: str) -> InvalidRequest:
    base = _base_model(metadata) or "another family of models, such as Stable Diffusion 1 or Flux"
    return _refused(
        f"The LoRA {name} does not fit this model ({what}). It was made for {base}, or is incomplete. "
        "Choose one for SDXL, or leave it out."
    )


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="loras")
