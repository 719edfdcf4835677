"""What a safetensors file is, told from its header. Kind and base are certain: tensors' names and shapes tell them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illustrious.catalog import families
from illustrious.catalog.identity import DRAWN_WITH, WIDTHS, Base, Identity
from illustrious.catalog.kinds import Kind
from illustrious.catalog.prediction import prediction
from illustrious.catalog.safetensors_header import Header

LORA_MARKS = ("lora_", ".lora.", "lycoris_", ".hada_", ".lokr_")
"""Found in keys of LoRA and LyCORIS files, and in no checkpoint's."""

UNET = "model.diffusion_model."

UPSCALES = re.compile(
    r"^(?:params(?:_ema)?\.)?(?:model\.0\.weight|conv_first\.|body\.|upconv|conv_last\.|HRconv|conv_before_upsample\.)"
)
"""Beginnings of names in ESRGAN, Real-ESRGAN, SwinIR and what is built like them."""

MOST_IN_EMBEDDING = 8
"""Tensors."""

BASE_OF_LORA: dict[str, Base] = {"sdxl": "sdxl", "stable-diffusion-xl": "sdxl", "sd_v1": "sd1", "sd_v2": "sd2"}
"""In ``ss_base_model_version`` and ``modelspec.architecture``."""

BY_CHANNELS: dict[int, Base] = {4: "sdxl", 9: "sdxl-inpainting"}


def of_header(header: Header, path: Path) -> Identity:
    """``path`` is where the header is from: what lies beside it and how it is called count too."""
    kind = kind_of(header)
    base = base_of(kind, header)
    sidecar = families.read_sidecar(path)
    known: dict[str, Any] = {"kind": kind, "base": base, **_words(header.metadata, sidecar)}
    if base in DRAWN_WITH and kind in ("checkpoint", "lora"):
        known["family"], known["sure"] = families.told(header.metadata, sidecar, path)
        known["prediction"] = prediction(header, header.metadata, path)
    if kind == "checkpoint" and (size := size_said(header.metadata)):
        known["width"], known["height"] = size
    return Identity(**known)


def kind_of(header: Header) -> Kind | None:
    """By the names of its tensors."""
    if any(mark in name for name in header for mark in LORA_MARKS):
        return "lora"
    if header.has("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "task_embedding"):
        return "controlnet"
    if header.has(UNET):
        return "checkpoint"
    if header.has("first_stage_model.", "decoder.conv_in.", "decoder.conv_out."):
        return "vae"
    shapes = [info.shape for info in header.tensors.values()]
    if 0 < len(shapes) <= MOST_IN_EMBEDDING and all(len(shape) <= 2 for shape in shapes):
        return "embedding"
    if any(len(shape) == 4 for shape in shapes) and any(UPSCALES.search(name) for name in header):
        return "upscaler"
    return None


def base_of(kind: Kind | None, header: Header) -> Base | None:
    match kind:
        case "checkpoint":
            return _base_of_checkpoint(header)
        case "lora":
            return _base_of_lora(header)
        case "embedding":
            return _base_of_embedding(header)
        case "controlnet":
            return _base_by_width(header)
        case _:
            return None


def _base_of_checkpoint(header: Header) -> Base:
    first = header.shape(f"{UNET}input_blocks.0.0.weight")
    if first is None or len(first) < 2:
        return "other"
    if header.has("cond_stage_model."):
        return "sd2" if header.has("cond_stage_model.model.") else "sd1"
    if header.has("conditioner.embedders.0.model."):
        return "sdxl-refiner"
    if f"{UNET}label_emb.0.0.weight" not in header:
        return "other"
    return BY_CHANNELS.get(first[1], "other")


def _base_of_lora(header: Header) -> Base | None:
    said = header.metadata.get("ss_base_model_version", "") + header.metadata.get("modelspec.architecture", "")
    for mark, base in BASE_OF_LORA.items():
        if mark in said:
            return base
    if header.has("lora_te2_", "lora_te1_", "text_encoder_2."):
        return "sdxl"
    return _base_by_width(header)


def _base_of_embedding(header: Header) -> Base | None:
    if "clip_g" in header:
        return "sdxl"
    return next((WIDTHS.get(info.shape[-1]) for info in header.tensors.values() if info.shape), None)


def _base_by_width(header: Header) -> Base | None:
    """By the width of what attention to the text reads: the last axis of its keys' (down) projection."""
    for name, info in header.tensors.items():
        if "attn2" in name and "to_k" in name and len(info.shape) == 2 and not name.endswith(("up.weight", "B.weight")):
            return WIDTHS.get(info.shape[1])
    return None


def size_said(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Native width and height by ``modelspec.resolution`` (``1024x1024``), where it is there and sane."""
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", metadata.get("modelspec.resolution", "").strip())
    if match:
        width, height = int(match[1]), int(match[2])
        if width % 8 == 0 and height % 8 == 0 and min(width, height) >= 64 and max(width, height) <= 2048:
            return width, height
    return None


def _words(metadata: Mapping[str, str], sidecar: Mapping[str, object]) -> dict[str, Any]:
    trained = sidecar.get("trainedWords")
    triggers = [str(word) for word in trained] if isinstance(trained, list) else []
    if phrase := metadata.get("modelspec.trigger_phrase"):
        triggers.append(phrase)
    return {
        "title": metadata.get("modelspec.title") or None,
        "author": metadata.get("modelspec.author") or None,
        "licence": metadata.get("modelspec.license") or None,
        "triggers": tuple(dict.fromkeys(triggers)),
    }
