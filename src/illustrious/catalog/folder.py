"""What a folder in diffusers' layout is, told from its JSON files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illustrious.catalog import families
from illustrious.catalog.identity import DRAWN_WITH, Base, Identity
from illustrious.catalog.kinds import Kind
from illustrious.catalog.prediction import Prediction
from illustrious.errors import Unavailable

INDEX = "model_index.json"

READ = (INDEX, "config.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
"""All that is read of a folder, below it."""

PIPELINES: dict[str, Base] = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionPipeline": "sd1",
    "StableDiffusionImg2ImgPipeline": "sd1",
    "StableDiffusionInpaintPipeline": "sd1",
}
"""Class of the pipeline → its base, as far as the class alone tells."""

KINDS: dict[str, Kind] = {
    "AutoencoderKL": "vae",
    "AutoencoderTiny": "vae",
    "ControlNetModel": "controlnet",
    "ControlNetUnionModel": "controlnet",
}
"""Class of a model that has a folder of its own → its kind."""


def of_folder(path: Path) -> Identity:
    """Raises ``Unavailable`` when its JSON files are missing or damaged."""
    if not (path / INDEX).is_file():
        return Identity(kind=KINDS.get(str(read_json(path / "config.json").get("_class_name"))))
    index = read_json(path / INDEX)
    base = PIPELINES.get(str(index.get("_class_name")), "other")
    if base == "other":
        return Identity(kind="checkpoint", base=base)
    unet = read_json(path / "unet" / "config.json")
    base = _base(base, index, unet)
    width, height = folder_size(unet, read_json(path / "vae" / "config.json"))
    known: dict[str, Any] = {"kind": "checkpoint", "base": base, "width": width, "height": height}
    if base in DRAWN_WITH:
        origin = {"modelspec.title": f"{index.get('_name_or_path', '')} {unet.get('_name_or_path', '')}"}
        known["family"], known["sure"] = families.told(origin, {}, path)
        known["prediction"] = _prediction(read_json(path / "scheduler" / "scheduler_config.json"))
    return Identity(**known)


def _base(base: Base, index: Mapping[str, Any], unet: Mapping[str, Any]) -> Base:
    if base == "sd1":
        return "sd2" if unet.get("cross_attention_dim") == 1024 else "sd1"
    if not (index.get("text_encoder") or [None, None])[1]:
        return "sdxl-refiner"
    return "sdxl" if unet.get("in_channels", 4) == 4 else "sdxl-inpainting"


def _prediction(scheduler: Mapping[str, Any]) -> Prediction:
    if scheduler.get("prediction_type") != "v_prediction":
        return Prediction(sure="certain")
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    return Prediction(type="v_prediction", zero_snr=zero_snr, sure="certain")


def folder_size(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """Native width and height in pixels. diffusers writes one edge of the latent, or height and width; every level of
    the autoencoder but the last halves the picture."""
    sample = unet.get("sample_size") or 128
    height, width = (sample, sample) if isinstance(sample, int) else sample
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    return width * factor, height * factor


def read_json(path: Path) -> dict[str, Any]:
    """Raises ``Unavailable`` for a file that is not there or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unavailable(f"{path} cannot be read ({error.strerror}). Download the model again.") from error
    except ValueError as error:
        raise Unavailable(f"{path} is not valid JSON ({error}). Download the model again.") from error
    if not isinstance(content, dict):
        raise Unavailable(f"{path} is not a JSON object. Download the model again.")
    return content
