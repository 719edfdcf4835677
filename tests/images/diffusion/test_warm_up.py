"""Compiling before anyone asks: the first picture that may be drawn by a graph is."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from illustrious.images import EngineOptions, Loading, Ready
from illustrious.images.diffusion import SDXLEngine
from illustrious.images.diffusion import model as model_module
from illustrious.images.diffusion.compiled import CompiledUNet, graph
from illustrious.images.diffusion.conditioner import Conditioner
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.warm_up import warm_up
from illustrious.types import ImageRequest
from tests import tiny
from tests.images.diffusion.conftest import Script
from tests.images.diffusion.drawing import loaded
from tests.images.diffusion.test_compiled import Graphs, compiling
from tests.images.diffusion.test_loop import drawn, looped

RED = ImageRequest(prompt="a red apple", steps=12, guidance=5, seed=1, speed="balanced")


@pytest.fixture
def model(single_file: Path) -> Model:
    model = loaded(single_file)
    model.rounded = None
    return model


@pytest.mark.parametrize("inpainting", [False, True])
def test_the_first_picture_of_the_native_size_finds_its_graphs_made(
    model: Model, tmp_path: Path, inpainting: bool
) -> None:
    """By torch's own tracing, which refuses whatever differs from what it was made for."""
    if inpainting:
        model = loaded(tiny.write_single_file(tmp_path / "tiny.safetensors", tiny.Tiny(in_channels=9)))
        model.rounded = None
    compiled = compiling(model, partial(graph, backend="eager"))
    warm_up(model)
    compiled.wait()
    assert compiled.shapes == 2
    for speed in ("balanced", "fast"):
        drawn(looped(model), {"one": RED.model_copy(update={"speed": speed})})
    assert not compiled.is_compiling
    assert (compiled.shapes, compiled.problem) == (2, None)


@pytest.mark.parametrize(("asked", "made"), [(True, 2), (False, 0)])
def test_an_engine_begins_when_it_is_ready_unless_that_is_switched_off(
    single_file: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, made: int
) -> None:
    graphs = Graphs()
    monkeypatch.setattr(Placement, "compiles", True)
    monkeypatch.setattr(Placement, "rounds", False)
    monkeypatch.setattr(model_module, "CompiledUNet", partial(CompiledUNet, compiler=graphs))
    engine = SDXLEngine(EngineOptions(model=str(single_file), device="cpu", warm_up=asked))
    events = engine.run(Script())
    assert isinstance(next(event for event in events if not isinstance(event, Loading)), Ready)
    assert graphs.made == 0
    assert list(events) == []
    assert graphs.made == made


def test_without_room_for_it_nothing_is_compiled_and_nothing_lost(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs()
    compiled = compiling(model, graphs)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    model.away = (model.vae,)
    warm_up(model)
    model.away = ()
    with monkeypatch.context() as patched:
        patched.setattr(Conditioner, "condition", full)
        warm_up(model)
    compiled.wait()
    assert (graphs.made, compiled.problem) == (0, None)
    warm_up(model)
    compiled.wait()
    assert graphs.made == 2
