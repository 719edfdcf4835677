"""Kinds of model files, what they are called, and the folders they lie in."""

from typing import Literal, get_args

Kind = Literal["checkpoint", "lora", "embedding", "vae", "controlnet", "upscaler", "wildcard"]

KINDS: tuple[Kind, ...] = get_args(Kind)

TITLES: dict[Kind, str] = {
    "checkpoint": "image model",
    "lora": "LoRA",
    "embedding": "embedding",
    "vae": "VAE",
    "controlnet": "ControlNet",
    "upscaler": "upscaler",
    "wildcard": "wildcard file",
}
"""In messages."""

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

OURS: dict[Kind, str] = {kind: folder for folder, kind in reversed(FOLDERS.items())}
"""Kind → the studio's own folder for it: the first of its kind above."""

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "checkpoint": (".safetensors", ".ckpt"),
    "lora": (".safetensors",),
    "embedding": (".safetensors", ".pt", ".bin"),
    "vae": (".safetensors",),
    "controlnet": (".safetensors",),
    "upscaler": (".safetensors", ".pth", ".pt"),
    "wildcard": (".txt",),
}
"""Of files (lower case). A ``.ckpt`` is never opened; it is listed so that whoever asks for it is told why."""

MARKS: dict[Kind, str] = {"checkpoint": "model_index.json", "vae": "config.json", "controlnet": "config.json"}
"""The file that makes a folder one model in diffusers' layout."""
