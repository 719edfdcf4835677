"""Safetensors in, models out: built without values, then given the file's own tensors, memory-mapped where they fit."""

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from illustrious.errors import Unavailable
from illustrious.images.diffusion.parts import Part
from illustrious.images.diffusion.placement import Placement

DIFFUSERS_MODELS = {
    "ControlNetModel": ControlNetModel,
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}
TEXT_MODELS = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}

NOT_WEIGHTS = ("position_ids", "logit_scale")
"""Tensors that text encoders carry although nothing here reads them."""

REMEDY = "Download it again, or choose another model with --model."


def read(path: Path, remedy: str = REMEDY) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (mapped, not yet read from disk) and metadata of a safetensors file. Raises ``Unavailable``."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise Unavailable(f"{path} is damaged or incomplete ({error}). {remedy}") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read ({error}). Check the file and its permissions.") from error


def build(part: Part) -> nn.Module:
    """The part's model on the meta device: names and shapes without values.

    Raises ``Unavailable`` for a configuration that describes no model.
    """
    try:
        with torch.device("meta"):
            if part.kind in TEXT_MODELS:
                model: nn.Module = TEXT_MODELS[part.kind](CLIPTextConfig(**part.config))
            else:
                # from_config would do the same and print a warning about every further key.
                kind = DIFFUSERS_MODELS[part.kind]
                known = inspect.signature(kind.__init__).parameters
                model = kind(**{name: value for name, value in part.config.items() if name in known})
    except (ValueError, TypeError) as error:
        raise Unavailable(
            f"The {part.title} of this model has a configuration that cannot be built ({error}). {part.remedy}"
        ) from error
    return model


def assemble(part: Part, placement: Placement) -> Any:
    """The part's model with its weights, in place, ready to evaluate.

    Raises ``Unavailable`` when tensors are missing, too many, of another shape, or not finite: a model is whole or it
    is not loaded.
    """
    model = build(part)
    tensors = _by_model_names(part, model)
    _compare(part, {name: value.shape for name, value in model.state_dict().items()}, tensors)
    placed = {name: _placed(tensor, placement) for name, tensor in tensors.items()}
    for name, tensor in placed.items():
        if not finite(tensor):
            raise Unavailable(
                f"The {part.title} holds values that are no numbers in {placement.dtype} ({name}): the file is "
                f"damaged. {part.remedy}"
            )
    model.load_state_dict(placed, assign=True)
    if part.kind in TEXT_MODELS:
        _restore_positions(model, placement)
    return model.eval().requires_grad_(False)


def _by_model_names(part: Part, model: nn.Module) -> dict[str, Tensor]:
    """The tensors under the names that the installed transformers and diffusers use today."""
    if part.kind in TEXT_MODELS:
        # CLIPTextModel lost its inner ``text_model`` in transformers 5.6; files keep either form.
        wrapped = hasattr(model, "text_model")
        return {
            name if wrapped else name.removeprefix("text_model."): tensor
            for name, tensor in part.tensors.items()
            if not name.endswith(NOT_WEIGHTS)
        }
    if part.kind == "AutoencoderKL":
        # Attention of autoencoders saved before diffusers 0.18.
        old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
        return {_renamed(name, old): tensor for name, tensor in part.tensors.items()}
    return part.tensors


def _renamed(name: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        name = name.replace(before, after)
    return name


def _compare(part: Part, expected: dict[str, torch.Size], tensors: dict[str, Tensor]) -> None:
    title, remedy = part.title, part.remedy
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise Unavailable(f"The {title} lacks {len(missing)} of its tensors (the first is {missing[0]}). {remedy}")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise Unavailable(
            f"The {title} has {len(unknown)} tensors that belong to no SDXL model (the first is {unknown[0]}). {remedy}"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise Unavailable(
                f"The {title} has a tensor of the wrong shape ({name}: {list(tensors[name].shape)} instead of "
                f"{list(shape)}). {remedy}"
            )


def _placed(tensor: Tensor, placement: Placement) -> Tensor:
    return tensor.to(placement.device, placement.dtype if tensor.is_floating_point() else tensor.dtype)


def finite(tensor: Tensor) -> bool:
    """Minimum and maximum carry NaN and infinity along, in one pass and without a copy."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _restore_positions(model: nn.Module, placement: Placement) -> None:
    """Positions 0, 1, 2, … are no part of any file, so the meta device left them without values."""
    embeddings: Any = getattr(model, "text_model", model).embeddings
    count = embeddings.position_embedding.num_embeddings
    embeddings.position_ids = torch.arange(count, device=placement.device).expand((1, -1))
