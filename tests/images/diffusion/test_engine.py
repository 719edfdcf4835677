"""The SDXL engine as its caller sees it: what it says, in which order, and what it refuses."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from illustrious.images import (
    Admit,
    Cancel,
    Done,
    EngineOptions,
    Failed,
    Loading,
    Ready,
    Step,
    Unloadable,
)
from illustrious.images.diffusion import SDXLEngine
from illustrious.images.diffusion.checkpoint import open_checkpoint, starter_folder
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.conftest import Draw, Run, Script, pixels

NATIVE = open_checkpoint(starter_folder()).size

APPLE = ImageRequest(prompt="a red apple", steps=3, guidance=5, seed=42)


def test_without_a_model_it_loads_the_starter_in_stages_and_says_plainly_what_it_is(run: Run) -> None:
    events = run(None)
    progress = [event.progress for event in events if isinstance(event, Loading)]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 4
    assert progress[-1] == 1.0
    ready = events[-1]
    assert isinstance(ready, Ready)
    assert (ready.model, ready.family) == ("sdxl-starter", "sdxl")
    assert (ready.width, ready.height) == NATIVE
    assert (ready.device, ready.backend, ready.dtype) == ("cpu", "cpu", "float32")
    assert ready.note is not None
    assert "128×128" in ready.note
    assert "starter" in ready.note


def test_a_result_tells_what_was_used_and_its_png_carries_no_metadata(draw: Draw) -> None:
    result = draw(None, APPLE)
    assert result.request == APPLE.model_copy(update={"width": NATIVE[0], "height": NATIVE[1]})
    assert (result.model, result.sampler, result.warnings) == ("sdxl-starter", "Euler", ())
    image = Image.open(io.BytesIO(result.image))
    assert (image.format, image.size, image.mode, image.info) == ("PNG", NATIVE, "RGB", {})


def test_the_starter_draws_a_red_apple(draw: Draw) -> None:
    """Not noise: the middle of the picture is much redder than it is green or blue."""
    middle = pixels(draw(None, APPLE.model_copy(update={"steps": 20})))[48:88, 40:88]
    red, green, blue = middle.reshape(-1, 3).mean(axis=0)
    assert red > green + 60
    assert red > blue + 60


def test_a_folder_and_a_single_file_of_the_same_weights_draw_the_same_pixels(
    draw: Draw, folder: Path, single_file: Path
) -> None:
    request = ImageRequest(prompt="a photo of a cat", negative_prompt="blurry", steps=4, seed=11)
    first, second = draw(folder, request), draw(single_file, request)
    assert np.array_equal(pixels(first), pixels(second))
    assert first.model == second.model == "tiny"


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a dog"}, {"negative_prompt": "a dog"}, {"steps": 4}, {"guidance": 1.0}, {"seed": 12}, {"width": 72}],
)
def test_every_field_acts(draw: Draw, single_file: Path, change: dict[str, object]) -> None:
    request = ImageRequest(prompt="a cat", steps=3, seed=11)
    before, after = pixels(draw(single_file, request)), pixels(draw(single_file, request.model_copy(update=change)))
    assert before.shape != after.shape or not np.array_equal(before, after)


def test_the_smallest_and_an_oblong_picture_are_drawn(draw: Draw, single_file: Path) -> None:
    for size in ((8, 8), (8, 200), (104, 40)):
        result = draw(single_file, ImageRequest(width=size[0], height=size[1], steps=1, seed=1))
        assert Image.open(io.BytesIO(result.image)).size == size


def test_a_prompt_of_any_length_is_drawn_whole_and_says_in_how_many_chunks(draw: Draw) -> None:
    long = APPLE.model_copy(update={"prompt": "apple " * 30 + "wearing Sunglasses"})
    result = draw(None, long)
    (warning,) = result.warnings
    assert "2 chunks" in warning
    shorter = draw(None, long.model_copy(update={"prompt": "apple " * 31}))
    assert not np.array_equal(pixels(result), pixels(shorter))


def test_previews_come_now_and_then_and_near_the_picture(run: Run) -> None:
    events = run(None, APPLE.model_copy(update={"steps": 20}), preview_every=6)
    previews = [(event.step, event.preview) for event in events if isinstance(event, Step) and event.preview]
    assert [step for step, _ in previews] == [6, 12, 18]
    done = events[-1]
    assert isinstance(done, Done)
    end = Image.open(io.BytesIO(done.results[0].image))
    shown = [Image.open(io.BytesIO(preview)).convert("RGB") for _, preview in previews]
    assert {image.format for image in map(Image.open, map(io.BytesIO, (preview for _, preview in previews)))} == {
        "WEBP"
    }
    distances = [np.abs(np.asarray(end.resize(image.size), int) - np.asarray(image, int)).mean() for image in shown]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 25
    (last,) = [event for event in run(None, APPLE, preview_every=0) if isinstance(event, Done)]
    (same,) = [event for event in run(None, APPLE, preview_every=1) if isinstance(event, Done)]
    assert last.results[0].image == same.results[0].image


def test_several_pictures_are_those_of_the_seeds_that_follow(run: Run, draw: Draw) -> None:
    events = run(None, APPLE.model_copy(update={"count": 3}))
    assert [(event.step, event.steps) for event in events if isinstance(event, Step)] == [(n, 9) for n in range(1, 10)]
    done = events[-1]
    assert isinstance(done, Done)
    assert [result.request.seed for result in done.results] == [42, 43, 44]
    for result in done.results:
        assert np.array_equal(pixels(result), pixels(draw(None, result.request)))


def test_a_negative_prompt_without_guidance_is_drawn_with_a_warning(draw: Draw) -> None:
    request = APPLE.model_copy(update={"guidance": 1.0})
    warned = draw(None, request.model_copy(update={"negative_prompt": "blue"}))
    assert "no effect" in warned.warnings[0]
    assert np.array_equal(pixels(warned), pixels(draw(None, request)))


def test_a_picture_over_the_limit_is_invalid_and_the_next_one_is_drawn(run: Run) -> None:
    events = run(None, APPLE.model_copy(update={"width": NATIVE[0] + 8}), APPLE, max_pixels=NATIVE[0] * NATIVE[1])
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.job_id, failed.error, failed.field) == ("0", "invalid", "width")
    assert "16,384" in failed.message
    assert isinstance(events[-1], Done)


def test_the_number_of_threads_is_honoured(run: Run) -> None:
    before = torch.get_num_threads()
    try:
        run(None, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cancel_drops_the_picture_under_way_between_two_steps_and_the_others_go_on() -> None:
    inbox = Script(*(Admit(job_id=name, request=APPLE) for name in ("one", "two", "three")))
    events = []
    for event in SDXLEngine(EngineOptions(device="cpu")).run(inbox):
        events.append(event)
        if isinstance(event, Step) and (event.job_id, event.step) == ("one", 2):
            inbox.commands += [Cancel(job_id="one"), Cancel(job_id="two"), Cancel(job_id="unknown")]
    assert [(event.job_id, event.error) for event in events if isinstance(event, Failed)] == [
        ("one", "cancelled"),
        ("two", "cancelled"),
    ]
    assert [event.step for event in events if isinstance(event, Step) and event.job_id == "one"] == [1, 2]
    assert [event.job_id for event in events if isinstance(event, Done)] == ["three"]


def test_values_that_are_no_numbers_fail_their_picture_alone(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from illustrious.images.diffusion import loop

    honest = loop.predict

    def overflowing(unet: object, pictures: Sequence[loop.Picture]) -> list[torch.Tensor]:
        answers = zip(honest(unet, pictures), pictures, strict=True)
        return [answer * (torch.nan if picture.guidance == 2 else 1) for answer, picture in answers]

    monkeypatch.setattr(loop, "predict", overflowing)
    events = run(folder, APPLE.model_copy(update={"guidance": 2.0}), APPLE)
    assert [(event.job_id, event.error) for event in events if isinstance(event, Failed)] == [("0", "failed")]
    assert [event.job_id for event in events if isinstance(event, Done)] == ["1"]


def test_a_picture_that_memory_cannot_hold_fails_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from illustrious.images.diffusion import loop

    honest = loop.predict

    def greedy(unet: object, pictures: Sequence[loop.Picture]) -> list[torch.Tensor]:
        if pictures[0].latents.shape[-1] > 16:
            torch.empty(2**60)  # torch's own error, whatever its words are on this system
        return honest(unet, pictures)

    monkeypatch.setattr(loop, "predict", greedy)
    events = run(None, APPLE.model_copy(update={"width": 2 * NATIVE[0]}), APPLE)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.job_id, failed.error) == ("0", "failed")
    assert "memory" in failed.message
    assert isinstance(events[-1], Done)


def test_an_unloadable_model_is_one_sentence_and_the_end(run: Run, tmp_path: Path) -> None:
    events = run(tmp_path / "gone.safetensors", APPLE)
    assert isinstance(events[-1], Unloadable)
    assert "gone.safetensors" in events[-1].reason
    assert "--model" in events[-1].reason


def test_a_device_that_is_not_there_is_refused_with_those_that_are(run: Run) -> None:
    refused = run(None, device="abacus")[-1]
    assert isinstance(refused, Unloadable)
    assert "abacus" in refused.reason
    assert "cpu" in refused.reason


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "import illustrious.images.diffusion, sys; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "set()"


OFFLINE = """
import socket, sys
def cut(*arguments, **keywords):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = cut
from illustrious.images import Admit, Done, EngineOptions
from illustrious.images.diffusion import SDXLEngine
from illustrious.types import ImageRequest
from tests.images.diffusion.conftest import Script
for model in sys.argv[1:]:
    job = Admit(job_id="one", request=ImageRequest(prompt="a cat", steps=1, seed=1))
    last = list(SDXLEngine(EngineOptions(model=model, device="cpu")).run(Script(job)))[-1]
    assert isinstance(last, Done), last
    print("drawn")
"""


def test_both_layouts_load_in_an_empty_home_without_a_network(single_file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "TRANSFORMERS_"))}
    output = subprocess.check_output(
        [sys.executable, "-c", OFFLINE, str(single_file), str(starter_folder())],
        env={**kept, "HOME": str(home), "USERPROFILE": str(home), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        text=True,
    )
    assert output.splitlines() == ["drawn", "drawn"]


def test_an_inpainting_unet_draws_from_text(draw: Draw, tmp_path: Path) -> None:
    file = tiny.write_single_file(tmp_path / "inpainting.safetensors", tiny.Tiny(in_channels=9))
    first = draw(file, ImageRequest(prompt="a cat", steps=2, seed=1))
    second = draw(file, ImageRequest(prompt="a dog", steps=2, seed=1))
    assert not np.array_equal(pixels(first), pixels(second))
