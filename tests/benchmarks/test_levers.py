"""What may be switched on for speed moves no picture, and leaves the model as it found it."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.levers import (
    DECODING_LEVERS,
    STEP_LEVERS,
    Compiler,
    Lever,
    Subject,
    channels_last,
    compiled,
    compiled_blocks,
    fused,
    together,
)
from PIL import Image
from torch import Tensor

from illustrious.images.diffusion.adapters import Loras, WeightedLora
from illustrious.images.diffusion.model import Model
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.drawing import decoded, latents, loaded
from tests.tiny_lora import write_kohya

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value: that of the engine's parity with diffusers."""

REQUEST = ImageRequest(prompt="a red apple on a table", negative_prompt="blue", steps=4, guidance=5, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(tiny.write_folder(tmp_path_factory.mktemp("tiny") / "tiny"))


@pytest.mark.parametrize(
    "change",
    [channels_last, fused, lambda unet: together(channels_last(unet), fused(unet))],
    ids=["nhwc", "qkv", "both"],
)
def test_the_unet_draws_the_same(model: Model, change: Callable[[Any], AbstractContextManager[None]]) -> None:
    before = latents(model, REQUEST)
    with change(model.unet):
        changed = latents(model, REQUEST)
    assert float((changed - before).abs().max() / before.abs().max()) <= TOLERANCE
    assert torch.equal(latents(model, REQUEST), before)


def test_the_vae_decodes_the_same(model: Model) -> None:
    def pixels() -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(decoded(model, REQUEST).image)), dtype=int)

    before = pixels()
    with channels_last(model.vae), fused(model.vae):
        changed = pixels()
    assert np.abs(changed - before).max() <= 1


def test_the_levers_are_on_within(model: Model) -> None:
    convolution = model.unet.conv_in.weight
    assert not convolution.is_contiguous(memory_format=torch.channels_last)
    with channels_last(model.unet), fused(model.unet):
        assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        names = {name.rsplit(".", 1)[-1] for name, _ in model.unet.named_modules()}
        assert {"to_qkv", "to_kv"} <= names
    assert not any("to_qkv" in name or "to_kv" in name for name, _ in model.unet.named_modules())


@pytest.mark.parametrize("change", [pytest.param(compiled, marks=pytest.mark.soak), compiled_blocks])
def test_a_compiled_unet_wears_loras(model: Model, change: Callable[..., Any], tmp_path: Path) -> None:
    """Whichever there were when it was compiled, and none of them afterwards."""
    subject, adapters = Subject(model), model.adapters
    kept = [adapters.load(write_kohya(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (1, 2)]
    outfits: list[Loras] = [(), *((WeightedLora(lora),) for lora in kept), ()]

    def steps() -> list[Tensor]:
        answers = []
        for worn in outfits:
            adapters.use(worn)
            answers.append(subject.step())
        return answers

    with torch.inference_mode():
        eager = steps()
        with change(model.unet, Compiler("eager")):
            answers = steps()
    assert all(map(torch.equal, answers, eager))
    assert not any(torch.equal(eager[0], answer) for answer in eager[1:3])


def test_a_step_that_repeats_is_the_engines(model: Model) -> None:
    """With what the deep blocks said a moment ago nothing changes, and they are not asked."""
    subject, calls = Subject(model), []
    hook = model.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        deep = subject.parts()
        assert subject.parts(deep) is deep
    hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("lever", "what"), [("text encoders beside a step", "read"), ("a decoding beside a step", "decode")]
)
def test_what_is_beside_a_step_waits_for_what_is_before_it_alone(
    model: Model, lever: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever comes after waits for it. Streams that write down what they are asked stand for a card's."""
    asked: list[str] = []

    class Stream:
        def __init__(self, name: str = "beside") -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            asked.append(f"{self.name} waits for {other.name}")

    streams = [Stream("here")]

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        streams.append(stream)
        yield
        streams.pop()

    subject = Subject(model)
    for name in ("step", what):
        monkeypatch.setattr(subject, name, lambda name=name: asked.append(f"{name} {streams[-1].name}"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    ready = next(each.ready for each in STEP_LEVERS if each.name == lever)
    with ready(subject, Compiler()) as work:
        work()
    assert asked == ["beside waits for here", "step here", f"{what} beside", "here waits for beside"]


@pytest.mark.parametrize("lever", [*STEP_LEVERS, *DECODING_LEVERS], ids=lambda lever: lever.name)
def test_what_is_predicted_is_in_the_log(lever: Lever) -> None:
    log = (Path(__file__).parents[2] / "docs" / "performance-log.md").read_text(encoding="utf-8")
    assert f"| {lever.name} | {lever.gain:.2f}×" in log
