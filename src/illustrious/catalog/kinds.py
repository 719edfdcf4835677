"""Kinds of model files, and the folders they lie in."""

from typing import Literal

Kind = Literal["checkpoint", "lora", "embedding", "vae", "controlnet", "upscaler", "wildcard"]

FOLDERS: dict[str, Kind] = {
    "checkpoints": "checkpoint",
    "stable-diffusion": "checkpoint",
    "loras": "lora",
    "lora": "lora",
    "lycoris": "lora",
    "embeddings": "embedding",
    "vae": "vae",
    "controlnet": "controlnet",
    "upscalers": "upscaler",
    "upscale_models": "upscaler",
    "esrgan": "upscaler",
    "realesrgan": "upscaler",
    "swinir": "upscaler",
    "dat": "upscaler",
    "wildcards": "wildcard",
}
"""Folders (lower case) of the studio, of AUTOMATIC1111's web UI and of ComfyUI → what lies in them."""
