"""A norm with its SiLU, and a gated unit, each as one call: with torch's own functions in it not one bit changes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.fusions import gated, gated_units, norm_and_silu, norms_with_silu
from benchmarks.levers import Subject, gated_units_in_triton, norms_in_triton
from benchmarks.report import Report, Row
from torch import Tensor

from illustrious.images.diffusion.adapters import WeightedLora
from illustrious.images.diffusion.model import Model
from tests import tiny
from tests.images.diffusion.drawing import loaded
from tests.tiny_lora import write_kohya


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(tiny.write_folder(tmp_path_factory.mktemp("tiny") / "tiny"))


class Counted:
    """How often a function was called."""

    def __init__(self, function) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *given: object) -> Tensor:
        self.calls += 1
        return self.function(*given)


@torch.inference_mode()
def test_the_unet_answers_the_same(model: Model) -> None:
    subject = Subject(model)
    modules = dict(model.unet.named_modules())
    blocks = sum("Resnet" in type(module).__name__ for module in modules.values())
    layers = sum(type(module).__name__ == "GEGLU" for module in modules.values())
    norm, unit = Counted(norm_and_silu), Counted(gated)
    before = subject.step()
    with norms_with_silu(model.unet, norm), gated_units(model.unet, unit):
        assert torch.equal(subject.step(), before)
        subject.parts()  # the engine's own way through the UNet
    assert (norm.calls, unit.calls) == (2 * (2 * blocks + 1), 2 * layers)
    assert blocks > 2 and layers > 2
    assert dict(model.unet.named_modules()) == modules


@torch.inference_mode()
def test_loras_act_all_the_same(model: Model, tmp_path: Path) -> None:
    subject, adapters = Subject(model), model.adapters
    plain = subject.step()
    adapters.use((WeightedLora(adapters.load(write_kohya(tmp_path / "lora.safetensors"))),))
    try:
        worn = subject.step()
        with norms_with_silu(model.unet, norm_and_silu), gated_units(model.unet, gated):
            assert torch.equal(subject.step(), worn)
    finally:
        adapters.forget()
    assert not torch.equal(worn, plain)


@pytest.mark.parametrize("lever", [norms_in_triton, gated_units_in_triton])
def test_without_triton_there_is_a_row_that_says_so(
    model: Model, lever, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "benchmarks.triton_kernels", raising=False)
    modules = dict(model.unet.named_modules())

    def trial() -> Iterator[Row]:
        with lever(model.unet):
            yield Row("never", 1.0)

    report = Report(tmp_path, {"card": "a card"}, budget=100)
    report.attempt("in Triton", trial, predicted=1.02)
    (row,) = report.rows
    assert row.figure is None
    assert row.note.startswith("failed: ModuleNotFoundError: ") and "triton" in row.note
    assert dict(model.unet.named_modules()) == modules
