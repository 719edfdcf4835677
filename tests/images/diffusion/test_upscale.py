"""Upscaler models from their files to larger pictures."""

import importlib.util
import pickle
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from illustrious.errors import EngineFailed, Unavailable
from illustrious.images.diffusion import upscale
from illustrious.images.diffusion.placement import Placement, place
from illustrious.images.diffusion.upscale import OVERLAP, Upscaler, Work, enlarge_to, load, spandrel, starts
from tests.esrgan import esrgan
from tests.images.diffusion.editing import photo

CPU = place("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscalers")
    save_file(esrgan(), folder / "4x-random.safetensors")
    save_file(esrgan(2, plain=True), folder / "2x-plain.safetensors")
    return folder


def result(work: Work) -> tuple[Image.Image, list[tuple[int, int]]]:
    """The picture, and what was told on the way to it."""
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as done:
            return done.value, told


def test_a_picture_becomes_as_many_times_larger_as_its_upscaler_says(files: Path) -> None:
    upscaler = load(files / "2x-plain.safetensors", CPU)
    assert (upscaler.name, upscaler.scale) == ("2x-plain", 2)
    picture = photo(40, 24)
    enlarged, told = result(upscaler.enlarge(Image.fromarray(picture)))
    assert np.array_equal(np.asarray(enlarged), picture.repeat(2, axis=0).repeat(2, axis=1))
    assert told == []


def test_it_computes_what_spandrel_computes(files: Path) -> None:
    upscaler = load(files / "4x-random.safetensors", CPU)
    picture = photo(40, 24)
    enlarged, _ = result(upscaler.enlarge(Image.fromarray(picture)))
    network = spandrel().ModelLoader().load_from_file(files / "4x-random.safetensors")
    expected = network(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0) * 255
    assert np.abs(np.asarray(enlarged) - expected.numpy()).max() <= 0.51  # rounding
    assert np.asarray(enlarged).std() > 5


def test_every_layout_of_a_pth_gives_the_same(files: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(photo(16, 16))
    expected, _ = result(load(files / "4x-random.safetensors", CPU).enlarge(picture))
    for name, content in {
        "bare.pth": esrgan(),
        "wrapped.pth": {"params_ema": esrgan()},
        "parallel.pt": {f"module.{key}": value for key, value in esrgan().items()},
    }.items():
        torch.save(content, tmp_path / name)
        assert result(load(tmp_path / name, CPU).enlarge(picture))[0] == expected


@pytest.mark.parametrize("length", [1, 64, 65, 100, 128, 1000])
def test_tiles_cover_everything_and_overlap(length: int) -> None:
    begins = starts(length, 64)
    assert begins[0] == 0
    assert begins[-1] == max(length - 64, 0)
    assert all(OVERLAP <= 64 - (after - before) < 64 for before, after in pairwise(begins))


def test_in_tiles_it_is_the_same_picture_and_can_be_interrupted(files: Path) -> None:
    picture = photo(150, 70)
    plain = load(files / "2x-plain.safetensors", CPU)
    enlarged, told = result(plain.enlarge(Image.fromarray(picture), tile=64))
    assert np.array_equal(np.asarray(enlarged), picture.repeat(2, axis=0).repeat(2, axis=1))
    assert told == [(done, 8) for done in range(1, 8)]
    # With a network that looks far around itself, no seam shows: tiles fade into each other.
    upscaler = load(files / "4x-random.safetensors", CPU)
    whole = np.asarray(result(upscaler.enlarge(Image.fromarray(picture)))[0], dtype=int)
    tiled = np.asarray(result(upscaler.enlarge(Image.fromarray(picture), tile=64))[0], dtype=int)
    assert np.abs(whole - tiled).max() <= 3
    assert np.abs(whole - tiled).mean() < 0.1


def test_along_a_seamless_axis_the_upscaler_sees_the_opposite_edge(files: Path) -> None:
    upscaler = load(files / "4x-random.safetensors", CPU)
    picture = photo(48, 40)
    moved = np.roll(picture, 24, axis=1)

    def error(axes: Any) -> int:
        one, other = (np.asarray(result(upscaler.enlarge(Image.fromarray(p), axes))[0], int) for p in (picture, moved))
        assert one.shape == (160, 192, 3)
        return int(np.abs(np.roll(one, 96, axis=1) - other).max())

    assert error("x") <= 1
    assert error("both") <= 1
    assert error("none") > 10
    assert error("y") > 10


def test_a_size_is_reached_by_as_many_passes_as_it_takes(files: Path) -> None:
    upscaler = load(files / "2x-plain.safetensors", CPU)
    picture = Image.fromarray(photo(16, 16))
    assert result(enlarge_to(upscaler, picture, (32, 32)))[0] == result(upscaler.enlarge(picture))[0]
    for size in ((64, 64), (40, 40), (72, 24), (256, 256)):
        assert result(enlarge_to(upscaler, picture, size))[0].size == size


class Cramped:
    """A network on a device whose memory ends at so many pixels."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] * image.shape[-2] > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return image.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_where_memory_is_short_tiles_become_smaller() -> None:
    picture = photo(300, 200)
    enlarged, told = result(Upscaler("cramped", 2, Cramped(128 * 128), CPU).enlarge(Image.fromarray(picture)))
    assert np.array_equal(np.asarray(enlarged), picture.repeat(2, axis=0).repeat(2, axis=1))
    assert told[-1] == (5, 6)
    with pytest.raises(EngineFailed, match="memory"):
        result(Upscaler("cramped", 2, Cramped(1000), CPU).enlarge(Image.fromarray(picture)))


def test_other_errors_are_not_taken_for_short_memory() -> None:
    class Broken(Cramped):
        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        result(Upscaler("broken", 2, Broken(1), CPU).enlarge(Image.fromarray(photo(8, 8))))


def test_in_half_precision_an_overflow_is_computed_again_in_float32(tmp_path: Path) -> None:
    tensors = esrgan(2, plain=True)
    for name in ("conv_first", "conv_up1"):
        tensors[f"{name}.weight"] *= 1024
    for name in ("conv_hr", "conv_last"):
        tensors[f"{name}.weight"] /= 1024
    save_file(tensors, tmp_path / "large.safetensors")
    half = Placement(torch.device("cpu"), "cpu", torch.bfloat16)
    upscaler = load(tmp_path / "large.safetensors", half)
    assert upscaler.network.dtype == torch.float16
    picture = photo(8, 8)
    enlarged, _ = result(upscaler.enlarge(Image.fromarray(picture)))
    assert np.array_equal(np.asarray(enlarged), picture.repeat(2, axis=0).repeat(2, axis=1))
    assert upscaler.network.dtype == torch.float16


def test_what_is_no_number_is_no_picture(tmp_path: Path) -> None:
    tensors = esrgan(2)
    tensors["conv_last.bias"][:] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(EngineFailed, match="nan"):
        result(load(tmp_path / "nan.safetensors", CPU).enlarge(Image.fromarray(photo(8, 8))))


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nowhere/ever").write_text, ("pwned",))


@pytest.mark.parametrize("case", ["malice", "garbage", "empty", "cut", "another", "missing tensors", "no file", "list"])
def test_what_is_no_upscaler_is_refused_and_never_run(tmp_path: Path, case: str) -> None:
    file = tmp_path / ("model.safetensors" if case in ("cut", "another", "missing tensors") else "model.pth")
    match case:
        case "malice":
            file.write_bytes(pickle.dumps({"conv_first.weight": Malice()}, protocol=2))
        case "garbage":
            file.write_bytes(b"no model" * 100)
        case "empty":
            file.touch()
        case "cut":
            save_file(esrgan(), file)
            file.write_bytes(file.read_bytes()[:5000])
        case "another":
            save_file({"something.weight": torch.zeros(3)}, file)
        case "missing tensors":
            save_file({key: value for key, value in esrgan().items() if "rdb2" not in key}, file)
        case "list":
            torch.save([1, 2], file)
    with pytest.raises(Unavailable, match=r"model\.(pth|safetensors)"):
        load(file, CPU)


def test_a_network_for_grey_pictures_is_refused(tmp_path: Path) -> None:
    tensors = {"body.0.weight": torch.zeros(8, 1, 3, 3), "body.0.bias": torch.zeros(8), "body.1.weight": torch.zeros(8)}
    tensors |= {"body.2.weight": torch.zeros(4, 8, 3, 3), "body.2.bias": torch.zeros(4)}
    save_file(tensors, tmp_path / "grey.safetensors")
    with pytest.raises(Unavailable, match="colour"):
        load(tmp_path / "grey.safetensors", CPU)


def test_spandrel_is_imported_without_torchvision_and_leaves_no_stand_in() -> None:
    assert importlib.util.find_spec("torchvision") is None
    architectures = {support.architecture.id for support in spandrel().MAIN_REGISTRY}
    assert {"ESRGAN", "Compact", "SPAN", "HAT", "DAT", "SwinIR", "OmniSR"} <= architectures
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]


def test_without_spandrel_it_is_told_how_to_install_it(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"--no-deps --requirement .*upscaling\.txt"):
        load(files / "4x-random.safetensors", CPU)
    assert upscale.REQUIREMENT.read_text().startswith("spandrel==")
