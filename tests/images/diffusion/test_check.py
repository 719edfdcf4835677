"""What is told of a request before it waits, and that it is what the engine would say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from illustrious.catalog.determine import determine
from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.check import check
from illustrious.types import Hires, ImageRequest, Lora
from tests.catalog.headers import LORA, SD1, SDXL, UPSCALER, write_header
from tests.images.diffusion.conftest import Draw

LIMIT = 2048 * 2048


@pytest.fixture
def library(tmp_path: Path) -> Library:
    write_header(tmp_path / "checkpoints" / "photo.safetensors", SDXL)
    write_header(tmp_path / "checkpoints" / "noobaiXL_vPred.safetensors", SDXL)
    write_header(tmp_path / "loras" / "style" / "ink.safetensors", LORA)
    write_header(tmp_path / "upscalers" / "4x-Ultra.safetensors", UPSCALER)
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "style.txt").write_text("<lora:ink:0.5>\n<lora:oil>\n", "utf-8")
    return Library([tmp_path], "photo")


def checked(library: Library, **asked: object) -> tuple[str, ...]:
    """As the studio does it: what was left open is decided first."""
    request, _ = determine(ImageRequest.model_validate({"prompt": "a cat", "seed": 1, **asked}), library)
    return check(request, library, LIMIT)


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({"sampler": "Euler b"}, "sampler", "There is no sampler “Euler b”. Did you mean Euler"),
        ({"schedule": "caras"}, "schedule", "There is no schedule “caras”. Did you mean Karras?"),
        ({"sampler": "DPM++ 2M Karras", "schedule": "beta"}, "schedule", "Leave one of them out"),
        ({"model": "noobaiXL_vPred", "sampler": "Heun"}, "sampler", "zero terminal SNR"),
        ({"model": "noobaiXL_vPred", "schedule": "Karras"}, "schedule", "noise has no upper end"),
        ({"prompt": "a cat <lora:inc:0.8>"}, "prompt", "Did you mean “style/ink”?"),
        ({"prompt_prefix": "<lora:oil>"}, "prompt", "There is no LoRA “oil”"),
        ({"prompt": "<lora:ink:99>"}, "prompt", "from -10 to 10"),
        ({"hires": Hires(upscaler="latnet")}, "hires", "Did you mean “Latent”"),
        ({"hires": Hires(upscaler="4x ultra")}, "hires", "Did you mean “4x-Ultra”"),
        ({"sampler": "LCM", "steps": 60}, "steps", "at most 50 steps, not 60"),
        ({"sampler": "TCD", "steps": 8, "hires": Hires(scale=1.5, steps=80)}, "steps", "at most 50 steps, not 80"),
        ({"hires": Hires(scale=4)}, "hires", "4096×4096"),
        ({"mask": b"a picture"}, "mask", "send init_image too"),
    ],
)
def test_what_could_not_be_drawn_is_refused(library: Library, asked: dict[str, object], field: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)) as raised:
        checked(library, **asked)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "asked",
    [
        {"sampler": "k_euler_a", "schedule": "exponential"},
        {"sampler": "DPM++ 2M Karras"},
        {"model": "noobaiXL_vPred"},
        {"prompt": "a cat <lora:style/ink:0.8>", "loras": (Lora(name="Ink"),)},
        {"prompt": "<lora:oil> as it stands", "prompt_syntax": "verbatim"},
        {"hires": Hires(upscaler="latent (nearest)")},
        {"hires": Hires(upscaler="4x-ultra.safetensors", scale=1.5)},
        {"hires": Hires(upscaler="None", scale=1.5)},
    ],
)
def test_what_can_be_drawn_is_not(library: Library, asked: dict[str, object]) -> None:
    assert checked(library, **asked) == ()


def test_every_seed_is_looked_at_for_what_it_draws(library: Library) -> None:
    """One of the two lines names a LoRA that is not there; seeds 3 and 4 draw one each."""
    assert checked(library, prompt="a cat __style__", seed=3) == ()
    with pytest.raises(InvalidRequest, match="There is no LoRA “oil”"):
        checked(library, prompt="a cat __style__", seed=3, count=2)


def test_a_checkpoint_that_cannot_be_drawn_with_is_left_to_the_engine(tmp_path: Path) -> None:
    """As the default it leaves the studio without a model, whatever the sampler."""
    for file in (write_header(tmp_path / "old.safetensors", SD1), tmp_path / "gone.safetensors"):
        assert checked(Library([], str(file)), sampler="no such sampler") == ()


def test_a_folder_with_a_scheduler_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "mine"
    for name, content in {
        "model_index.json": '{"_class_name": "StableDiffusionXLPipeline", "text_encoder": ["transformers", "CLIP"]}',
        "unet/config.json": "{}",
        "vae/config.json": "{}",
        "scheduler/scheduler_config.json": '{"_class_name": "DreamScheduler"}',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    with pytest.raises(InvalidRequest, match="DreamScheduler") as raised:
        checked(Library([tmp_path]), model="mine")
    assert raised.value.field == "model"


@pytest.mark.parametrize(
    "asked",
    [
        {"schedule": "Karras"},
        {"sampler": "DDIM", "schedule": "beta"},
        {"sampler": "LCM", "schedule": "simple"},
        {"sampler": "DPM++ 3M SDE", "schedule": "normal"},
        {"prompt": "a __colour__ cat <hypernet:x:1>"},
    ],
)
def test_it_warns_of_what_the_engine_warns_of(draw: Draw, asked: dict[str, object]) -> None:
    request = ImageRequest.model_validate({"prompt": "a cat", "steps": 2, "seed": 1, "model": "sdxl-starter", **asked})
    warned = check(request, Library([]), LIMIT)
    assert warned == draw(None, request).warnings != ()


def test_it_needs_no_torch() -> None:
    code = "import sys, illustrious.images.diffusion.check; print({'torch', 'diffusers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
