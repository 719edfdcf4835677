"""A diffusers folder: ``model_index.json``, and a subfolder with configuration and weights for each part."""

from pathlib import Path
from typing import Any

from torch import Tensor

from illustrious.catalog.folder import read_json
from illustrious.errors import Unavailable
from illustrious.images.diffusion.parts import Checkpoint, Part, latent_factor
from illustrious.images.diffusion.samplers import of_folder
from illustrious.images.diffusion.tokenizer import folder_tokenizer
from illustrious.images.diffusion.weights import REMEDY, read

PIPELINES = {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}

PARTS = {
    "text_encoder": ("first text encoder", {"CLIPTextModel"}),
    "text_encoder_2": ("second text encoder", {"CLIPTextModelWithProjection"}),
    "unet": ("UNet", {"UNet2DConditionModel"}),
    "vae": ("VAE", {"AutoencoderKL", "AutoencoderTiny"}),
}
"""Subfolder → its title and the classes it may hold."""

VARIANTS = ("", ".fp16", ".bf16")


def open_folder(path: Path) -> Checkpoint:
    """Raises ``Unavailable`` for anything but a whole SDXL folder with safetensors weights."""
    if not (path / "model_index.json").is_file():
        raise Unavailable(
            f"{path} is not a diffusers folder (it has no model_index.json). "
            "Give the .safetensors file itself with --model, or a folder in diffusers' layout."
        )
    index = read_json(path / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise Unavailable(f"{path} holds a {pipeline}, and this engine draws with SDXL only. Choose an SDXL model.")
    first, second = _part(path, index, "text_encoder"), _part(path, index, "text_encoder_2")
    unet, vae = _part(path, index, "unet"), _part(path, index, "vae")
    return Checkpoint(
        name=path.resolve().name,
        unet=unet,
        vae=vae,
        text_encoders=(first, second),
        tokenizers=(
            folder_tokenizer(path / "tokenizer", first.config.get("max_position_embeddings", 77)),
            folder_tokenizer(path / "tokenizer_2", second.config.get("max_position_embeddings", 77)),
        ),
        sampler=of_folder(path),
        size=_size(unet.config.get("sample_size") or 128, latent_factor(vae.config)),
        zeros_for_empty_negative=bool(index.get("force_zeros_for_empty_prompt", True)),
        preview=_preview(path / "preview"),
    )


def _preview(path: Path) -> Part | None:
    if not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    return Part("preview decoder", "AutoencoderTiny", config, weights_in(path, "diffusion_pytorch_model"))


def _size(sample_size: int | list[int], factor: int) -> tuple[int, int]:
    """Native width and height; diffusers writes one edge of the latent, or height and width."""
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return width * factor, height * factor


def _part(path: Path, index: dict[str, Any], name: str) -> Part:
    title, kinds = PARTS[name]
    kind = (index.get(name) or [None, None])[1]
    if kind is None:
        hint = " (it may be SDXL's refiner)" if name == "text_encoder" else ""
        raise Unavailable(f"{path} has no {title}{hint}. Choose a complete SDXL model.")
    if kind not in kinds:
        raise Unavailable(f"{path} has a {kind} as its {title}, which this engine does not know. Choose an SDXL model.")
    config = read_json(path / name / "config.json")
    stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
    return Part(title, kind, config, weights_in(path / name, stem))


def weights_in(folder: Path, stem: str, remedy: str = REMEDY) -> dict[str, Tensor]:
    """Full precision first, then the variants; whole, or in the shards that an index names."""
    for variant in VARIANTS:
        whole = folder / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return read(whole, remedy)[0]
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            # Only the last part of each name counts: a shard lies beside its index and nowhere else.
            shards = sorted({Path(shard).name for shard in read_json(index).get("weight_map", {}).values()})
            return {key: tensor for shard in shards for key, tensor in read(folder / shard, remedy)[0].items()}
    if any(folder.glob("*.bin")):
        raise Unavailable(
            f"{folder} has pickled weights only (.bin), which could run any code when opened. "
            "Use the safetensors version of this model, or save it again with safe_serialization=True."
        )
    raise Unavailable(f"{folder} has no weights ({stem}.safetensors). Download the model again, or choose another.")
