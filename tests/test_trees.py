"""The folders of other programs: a studio told of them with ``--models-dir`` draws with all that lies there."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image
from safetensors.torch import save_file

from illustrious.images.diffusion.single_file import VAE
from tests import tiny, tiny_controlnet, tiny_lora
from tests.esrgan import esrgan
from tests.images.diffusion.editing import photo, png
from tests.server import running_studio


def write_vae(path: Path) -> None:
    tensors = tiny.Tiny(seed=9).tensors().items()
    save_file({key.removeprefix(VAE): value for key, value in tensors if key.startswith(VAE)}, path)


def webui(root: Path) -> Path:
    """As AUTOMATIC1111's web UI has it, with one of everything."""
    models = root / "models"
    for name in ("models/Stable-diffusion/anime", "models/Lora/style", "models/VAE", "models/ESRGAN"):
        (root / name).mkdir(parents=True)
    for name in ("embeddings", "wildcards"):
        (root / name).mkdir()
    v = tiny.Tiny(prediction="v_prediction", zero_snr=True, seed=2)
    tiny.write_single_file(models / "Stable-diffusion/anime/noobaiXL_vPred.safetensors", v)
    tiny_lora.write_kohya(models / "Lora/style/ink.safetensors")
    write_vae(models / "VAE/other.safetensors")
    torch.save(esrgan(2, plain=True), models / "ESRGAN/2x-plain.pth")
    save_file({"clip_l": torch.ones(2, 64), "clip_g": torch.ones(2, 64)}, root / "embeddings/charm.safetensors")
    (root / "wildcards/fruit.txt").write_text("apple\nbanana\n", "utf-8")
    return root


def comfyui(root: Path) -> Path:
    """As ComfyUI has it."""
    models = root / "models"
    for name in ("checkpoints", "loras", "vae", "controlnet", "upscale_models"):
        (models / name).mkdir(parents=True)
    tiny.write_folder(models / "checkpoints/folder-xl", tiny.Tiny(seed=5))
    tiny_lora.write_peft(models / "loras/oil.safetensors")
    unet = tiny.Tiny().pipeline().unet.to(torch.float32)
    tiny_controlnet.write_single_file(models / "controlnet/canny.safetensors", tiny_controlnet.controlnet(unet))
    return root


GUIDE = base64.b64encode(png(photo(64, 64))).decode("ascii")

NOOBAI: dict[str, Any] = {"model": "noobaiXL_vPred", "prompt": "a cat", "prompt_syntax": "a1111", "seed": 7}
FOLDER: dict[str, Any] = {**NOOBAI, "model": "folder-xl"}

ASKED: dict[str, dict[str, Any]] = {
    "v-prediction": NOOBAI,
    "lora": {**NOOBAI, "prompt": "a cat <lora:ink:0.8>"},
    "embedding": {**NOOBAI, "prompt": "a cat, charm"},
    "wildcard": {**NOOBAI, "prompt": "a cat, __fruit__"},
    "vae": {**NOOBAI, "vae": "other"},
    "upscaler": {**NOOBAI, "hires": {"scale": 1.5, "upscaler": "2x-plain", "strength": 0.5}},
    "folder": FOLDER,
    "the other's lora": {**FOLDER, "loras": [{"name": "oil"}]},
    "controlnet": {**FOLDER, "control": [{"model": "canny", "image": GUIDE}]},
    "starter": {**NOOBAI, "model": "sdxl-starter"},
}


WRONG: dict[str, dict[str, Any]] = {
    "Did you mean “anime/noobaiXL_vPred”": {"model": "noobaiXL_vPredd"},
    "Did you mean “style/ink”": {"loras": [{"name": "inkk"}]},
    "Did you mean “other”": {"vae": "othr"},
    "Did you mean “canny”": {"control": [{"model": "cany", "image": GUIDE}]},
    "Did you mean “2x-plain”": {"hires": {"upscaler": "2x-plane"}},
    "zero terminal SNR": {"schedule": "Karras"},
}
"""By what the answer says."""


def test_everything_in_two_programs_folders_is_drawn_with_by_name(tmp_path: Path) -> None:
    folders = (webui(tmp_path / "webui"), comfyui(tmp_path / "ComfyUI"))
    options = [option for folder in folders for option in ("--models-dir", str(folder))]
    with (
        running_studio(tmp_path, "--model", "folder-xl", *options) as studio,
        httpx.Client(base_url=studio.url, trust_env=False, timeout=300) as http,
    ):
        answers = {name: http.post("/generate-image", json={**body, "steps": 10}) for name, body in ASKED.items()}
        assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(ASKED, 200)
        drawn = {name: answer.json() for name, answer in answers.items()}
        models = http.get("/models").json()
        refused = {said: http.post("/jobs", json={**NOOBAI, **body}) for said, body in WRONG.items()}
    assert len({answer["image_base64"] for answer in drawn.values()}) == len(ASKED)
    assert {answer["model"] for answer in drawn.values()} == {"noobaiXL_vPred", "folder-xl", "sdxl-starter"}
    assert Image.open(io.BytesIO(base64.b64decode(drawn["upscaler"]["image_base64"]))).size == (96, 96)
    assert [warning for answer in drawn.values() for warning in answer["warnings"]] == []
    loaded = {card["id"]: (card["loaded"], card["default"]) for card in models["image"]}
    assert loaded == {
        "anime/noobaiXL_vPred": (True, False),
        "folder-xl": (True, True),
        "sdxl-starter": (True, False),
    }
    assert models["problems"] == []
    for said, answer in refused.items():
        assert (answer.status_code, said in answer.json()["detail"][0]["msg"]) == (422, True), answer.text
