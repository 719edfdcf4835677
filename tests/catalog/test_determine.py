"""What a request leaves open is decided before its job is stored."""

from pathlib import Path

import pytest

from illustrious.catalog.determine import determine
from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest
from illustrious.types import Control, ImageRequest, Lora
from tests.catalog.headers import SD1, SDXL, write_header
from tests.catalog.test_scan import touch

EDM = {**SDXL, "edm_mean": (4,), "edm_std": (4,)}

MODELS = {"ponyMix": SDXL, "NoobAI-XL-Vpred": SDXL, "photo": SDXL, "old-sd15": SD1, "playground": EDM}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    for name, shapes in MODELS.items():
        write_header(tmp_path / "checkpoints" / f"{name}.safetensors", shapes)
    touch(tmp_path, "checkpoints/pickled.ckpt", "loras/ink.safetensors")
    return Library([tmp_path], "photo")


def test_the_profile_fills_what_nobody_said(library: Library) -> None:
    asked = ImageRequest(prompt="a cat", model="ponymix.safetensors", steps=12)
    request, warnings = determine(asked, library)
    assert request.model == "ponyMix"
    assert request.steps == 12
    assert request.prompt_prefix == "score_9, score_8_up, score_7_up"
    assert (request.width, request.height) == (1024, 1024)
    assert (request.sampler, request.clip_skip, request.guidance) == ("Euler a", 2, 7.0)
    assert warnings == ()


def test_what_the_caller_or_the_contract_said_stays_even_where_it_is_the_default(library: Library) -> None:
    said = {"negative_prompt": "", "steps": 30, "guidance": 7.5, "prompt_prefix": ""}
    request, _ = determine(ImageRequest(prompt="a cat", model="NoobAI-XL-Vpred", **said), library)
    assert request.model_dump(include=set(said)) == said
    assert (request.sampler, request.guidance_rescale) == ("Euler", 0.2)


def test_a_schedule_is_chosen_with_the_sampler_or_not_at_all(library: Library, tmp_path: Path) -> None:
    write_header(tmp_path / "checkpoints" / "Illustrious-XL-v3.0.safetensors", SDXL)
    asked = ImageRequest(model="Illustrious-XL-v3.0")
    assert determine(asked, library)[0].schedule == "Normal"
    chosen = asked.model_copy(update={"sampler": "DPM++ 2M Karras"})
    assert determine(chosen, library)[0].schedule is None


def test_what_is_determined_stays_as_it_is(library: Library) -> None:
    request, _ = determine(ImageRequest(prompt="a cat", model="NoobAI-XL-Vpred"), library)
    again = ImageRequest.model_validate_json(request.model_dump_json())
    assert determine(again, library) == (again, ())


def test_without_a_name_the_model_is_the_default_one_for_good(library: Library) -> None:
    assert determine(ImageRequest(), library)[0].model == "photo"


def test_a_picture_sent_in_says_the_size(library: Library) -> None:
    request, _ = determine(ImageRequest(init_image=b"a picture"), library)
    assert request.width is None


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (ImageRequest(model="ponyMiks"), "model", "Did you mean “ponyMix”"),
        (ImageRequest(model="old-sd15"), "model", "Stable Diffusion 1"),
        (ImageRequest(model="playground"), "model", "predicts as EDM models do"),
        (ImageRequest(model="pickled"), "model", "pickled"),
        (ImageRequest(loras=(Lora(name="inc"),)), "loras", "Did you mean “ink”"),
        (ImageRequest(vae="anime"), "vae", "There is no VAE"),
        (ImageRequest(control=(Control(model="canny", image=b""),)), "control", "There is no ControlNet"),
    ],
)
def test_what_is_not_there_is_refused(library: Library, request_: ImageRequest, field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as raised:
        determine(request_, library)
    assert raised.value.field == field


def test_sizes_that_the_model_never_saw_come_with_a_warning(library: Library) -> None:
    (small,) = determine(ImageRequest(width=512, height=512), library)[1]
    assert "Draw 1024×1024 and scale the picture down" in small
    (large,) = determine(ImageRequest(width=1216, height=2048), library)[1]
    assert "Draw 768×1344 and have it enlarged" in large or "640×1536" in large
    assert determine(ImageRequest(width=832, height=1216), library)[1] == ()
