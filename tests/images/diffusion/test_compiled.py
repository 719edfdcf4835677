"""Compiling beside the pictures: it never keeps one waiting, never changes what one shows, and says when it failed."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from illustrious.images import Admit, Done, EngineOptions, Warned
from illustrious.images.diffusion import SDXLEngine
from illustrious.images.diffusion import model as model_module
from illustrious.images.diffusion.adapters import WeightedLora
from illustrious.images.diffusion.compiled import CompiledUNet, graph, twin
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.outfit import BARE, SEAMLESS
from illustrious.images.diffusion.placement import Placement
from illustrious.images.diffusion.shortcuts import Parts, forward
from illustrious.types import ImageRequest, Lora
from tests import tiny_lora
from tests.images.diffusion.conftest import Script
from tests.images.diffusion.drawing import loaded
from tests.images.diffusion.test_loop import drawn, looped, pictures
from tests.images.diffusion.test_shortcuts import given

RED = ImageRequest(prompt="a red apple", steps=4, guidance=5, seed=1, speed="balanced")


@pytest.fixture
def model(single_file: Path) -> Model:
    model = loaded(single_file)
    model.rounded = None  # where compiling pays, everything is in half precision already
    return model


def compiling(model: Model, compiler: Callable[[Parts], Parts]) -> CompiledUNet:
    """From now on the model is on a device where compiling pays."""
    model.compiled = CompiledUNet(model.unet, compiler)
    return model.compiled


class Graphs:
    """A compiler whose graphs are what they were made of; it counts them, and their calls."""

    def __init__(self) -> None:
        self.made = 0
        self.rows: list[int] = []

    def __call__(self, parts: Parts) -> Parts:
        self.made += 1

        def compiled(**given: Any) -> Any:
            self.rows.append(len(given["sample"]))
            return parts(**given)

        return compiled


@torch.inference_mode()
def test_a_compiled_unet_answers_as_the_eager_one(model: Model) -> None:
    """By torch's own tracing, without the part that writes machine code."""
    compiled = CompiledUNet(model.unet, partial(graph, backend="eager"))
    arguments = given(model.unet, 16, 16)
    expected = forward(model.unet, **arguments)
    for _ in range(2):
        assert all(map(torch.equal, compiled(**arguments), expected))
        compiled.wait()
    assert compiled.news() == []


def test_a_graph_is_for_one_shape_alone() -> None:
    """Nobody waits for a second one by surprise."""
    doubled = graph(lambda sample: (sample * 2, sample), backend="eager")
    assert float(doubled(torch.ones(3))[0].sum()) == 6
    assert float(graph(lambda sample: (sample * 3, sample), backend="eager")(torch.ones(4))[0].sum()) == 12
    assert float(doubled(torch.ones(3))[0].sum()) == 6
    with pytest.raises(FailOnRecompileLimitHit):
        doubled(torch.ones(4))


def test_there_may_be_more_graphs_of_one_function_than_torch_makes() -> None:
    """By its default it gives up after eight for the same code."""

    def doubled(sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return sample * 2, sample

    graphs = {length: graph(doubled, backend="eager") for length in range(2, 12)}
    for _ in range(2):
        assert all(float(each(torch.ones(length))[0].sum()) == 2 * length for length, each in graphs.items())


@torch.inference_mode()
def test_a_twin_shares_the_parameters_and_wears_nothing(model: Model, tmp_path: Path) -> None:
    other, arguments = twin(model.unet), given(model.unet, 16, 16)
    bare = forward(model.unet, **arguments)[0]
    assert all(one is its for one, its in zip(model.unet.parameters(), other.parameters(), strict=True))
    tiny_lora.write_kohya(tmp_path / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    with_lora = model.adapters.load(tmp_path / "style.safetensors")
    model.adapters.use((WeightedLora(with_lora),))
    assert not torch.equal(forward(model.unet, **arguments)[0], bare)
    assert torch.equal(forward(other, **arguments)[0], bare)
    model.unet.to(torch.float64)
    assert next(other.parameters()).dtype == torch.float64


def test_pictures_are_drawn_while_a_compiler_takes_its_time(model: Model) -> None:
    """It holds until they are all done; then the next one is drawn by what it made."""
    begun, may_end, graphs = threading.Event(), threading.Event(), Graphs()

    def slow(parts: Parts) -> Parts:
        begun.set()
        assert may_end.wait(60)
        return graphs(parts)

    expected = pictures(drawn(looped(model), {"one": RED}))
    compiled = compiling(model, slow)
    meanwhile = pictures(drawn(looped(model), {"one": RED}))
    assert begun.is_set()
    assert (meanwhile, graphs.made) == (expected, 0)
    may_end.set()
    compiled.wait()
    assert graphs.rows == [2]  # the warm-up: both halves of a picture
    assert pictures(drawn(looped(model), {"one": RED})) == expected
    assert graphs.rows[1:] == [2] * RED.steps


@torch.inference_mode()
def test_any_number_of_rows_is_put_together_from_few_graphs(model: Model) -> None:
    graphs = Graphs()
    compiled = CompiledUNet(model.unet, graphs)
    for rows in (1, 2, 3, 7, 9) * 2:
        arguments = given(model.unet, 8, 8, rows)
        answer, deep = compiled(**arguments)
        assert (len(answer), len(deep)) == (rows, rows)
        assert torch.allclose(answer, forward(model.unet, **arguments)[0], atol=1e-4)
        compiled.wait()
    assert (set(graphs.rows), graphs.made) == ({1, 2, 4, 8}, 4)


def no_compiler(parts: Parts) -> Parts:
    raise RuntimeError("Cannot find a working Triton\nand much more")


def no_second_call(parts: Parts) -> Parts:
    calls = iter([parts])

    def compiled(**given: Any) -> Any:
        for whole in calls:
            return whole(**given)
        raise FailOnRecompileLimitHit("Cannot find a working Triton\nand much more")

    return compiled


@pytest.mark.parametrize("broken", [no_compiler, no_second_call])
def test_a_compiler_or_graph_that_fails_is_told_once_and_costs_no_picture(
    model: Model, broken: Callable[[Parts], Parts]
) -> None:
    expected = pictures(drawn(looped(model), {"one": RED}))
    compiled = compiling(model, broken)
    warnings = []
    for _ in range(3):
        happened = drawn(looped(model), {"one": RED})
        assert pictures(happened) == expected
        warnings.append(next(event.results[0].warnings for event in happened if isinstance(event, Done)))
        compiled.wait()
    told = [warning for each in warnings for warning in each]
    assert len(told) == 1
    assert "Cannot find a working Triton)" in told[0]


def test_what_is_exact_or_worn_or_moved_away_is_drawn_without(model: Model, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors", tiny_lora.targets(parts=["unet"]))
    graphs = Graphs()
    compiled = compiling(model, graphs)
    requests = {
        "exact": ImageRequest(**RED.model_dump(exclude={"speed", "exact"})),
        "lora": RED.model_copy(update={"loras": (Lora(name="style"),)}),
        "tiling": RED.model_copy(update={"tiling": "x"}),
    }
    happened = drawn(looped(model, tmp_path), requests)
    assert graphs.made == 0
    told = {event.job_id: event.results[0].warnings for event in happened if isinstance(event, Done)}
    assert told == {"exact": (), "lora": (BARE,), "tiling": (SEAMLESS,)}
    drawn(looped(model), {"one": RED})
    compiled.wait()
    compiled.retire()
    called = len(graphs.rows)
    happened = drawn(looped(model, tmp_path), {"one": RED, "lora": requests["lora"]})
    assert len(graphs.rows) == called
    assert not any(event.results[0].warnings for event in happened if isinstance(event, Done))


def test_a_cpu_compiles_nothing(model: Model) -> None:
    assert model.compiled is None
    assert replace(model.placement, device=torch.device("cuda")).compiles


def test_an_engine_tells_of_a_failed_compiler_even_when_nobody_asks_for_anything(
    single_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails after the picture is done."""
    is_done = threading.Event()

    def no_compiler_in_time(parts: Parts) -> Parts:
        assert is_done.wait(60)
        return no_compiler(parts)

    monkeypatch.setattr(Placement, "compiles", True)
    monkeypatch.setattr(Placement, "rounds", False)
    monkeypatch.setattr(model_module, "CompiledUNet", partial(CompiledUNet, compiler=no_compiler_in_time))
    engine = SDXLEngine(EngineOptions(model=str(single_file), device="cpu"))
    told = []
    for event in engine.run(Script(Admit(job_id="1", request=RED))):
        told.append(event)
        if isinstance(event, Done):
            is_done.set()
    done, warned = told[-2:]
    assert isinstance(done, Done)
    assert isinstance(warned, Warned)
    assert warned.warnings[0].startswith("tiny: The model could not be compiled")
