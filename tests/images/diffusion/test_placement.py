"""Which device, which dtype. The hardware is played; the decisions are real."""

import contextlib

import pytest
import torch

from illustrious.errors import Unavailable
from illustrious.images.diffusion.placement import memory_ran_out, place


def play(
    monkeypatch: pytest.MonkeyPatch, cuda: int = 0, bfloat16: bool = True, hip: str | None = None, mps: bool = False
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("hardware", "backend", "dtype"),
    [
        ({"cuda": 1}, "cuda", torch.bfloat16),
        ({"cuda": 1, "bfloat16": False}, "cuda", torch.float16),
        ({"cuda": 1, "hip": "6.4"}, "rocm", torch.bfloat16),
        ({"mps": True}, "mps", torch.float16),
        ({}, "cpu", torch.float32),
    ],
)
def test_the_best_device_is_found(
    monkeypatch: pytest.MonkeyPatch, hardware: dict[str, object], backend: str, dtype: torch.dtype
) -> None:
    play(monkeypatch, **hardware)  # type: ignore[arg-type]
    placement = place(None)
    assert (placement.backend, placement.dtype) == (backend, dtype)


def test_the_device_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, cuda=2)
    assert place("cpu").dtype == torch.float32
    assert place("cuda:1").device == torch.device("cuda:1")


@pytest.mark.parametrize("asked", ["cuda:2", "mps", "meta", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    play(monkeypatch, cuda=2)
    if not asked:
        assert place(asked).backend == "cuda"  # an empty setting is no setting
        return
    with pytest.raises(Unavailable, match="cuda, cpu"):
        place(asked)


def test_full_memory_is_told_from_other_errors() -> None:
    assert memory_ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as full:
        torch.empty(2**60)
    assert memory_ran_out(full.value)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not memory_ran_out(other.value)
