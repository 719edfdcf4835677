"""Upscaler models: the ESRGAN family and what else spandrel can run, a tile at a time.

spandrel declares torchvision, of which two of its architectures want a function each: RestoreFormer, which restores
faces, and LaMa, which fills holes. Neither enlarges pictures. torchvision has to match the build of torch it is
installed beside, and pip does not see to that; so spandrel is installed without the needs it declares
(``data/upscaling.txt``), and imported here with stand-ins for those functions.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from illustrious.errors import EngineFailed, Unavailable
from illustrious.images.diffusion.placement import Placement, free_memory, memory_ran_out
from illustrious.images.diffusion.tiling import Axes

REQUIREMENT = Path(__file__).parents[2] / "data" / "upscaling.txt"
"""spandrel's wheel and its hash, for pip."""

TILE, SMALLEST_TILE, OVERLAP = 512, 128, 32
"""Pixels of the picture that goes in: of a tile, of one still worth trying when memory is short, and that two share."""

PASSES = 3
"""How often a picture is enlarged, at most, to reach a size; the rest is resampled."""

Work = Generator[tuple[int, int], None, Image.Image]
"""Yields, between tiles, how many are done and how many there are; returns the picture."""


@dataclass(frozen=True)
class Upscaler:
    """``scale`` is how much larger an edge becomes. ``network`` is spandrel's descriptor of a model in its place."""

    name: str
    scale: int
    network: Any
    placement: Placement

    def enlarge(self, picture: Image.Image, axes: Axes = "none", tile: int = TILE) -> Work:
        """The RGB picture ``scale`` times as large; along ``axes`` it goes on at the opposite edge.

        Runs out of memory: smaller tiles. Raises ``EngineFailed`` when they do not help.
        """
        wrap = (OVERLAP if axes in ("y", "both") else 0, OVERLAP if axes in ("x", "both") else 0)
        pixels = np.pad(np.asarray(picture), ((wrap[0], wrap[0]), (wrap[1], wrap[1]), (0, 0)), mode="wrap")
        while True:
            try:
                enlarged = yield from self._tiles(pixels, tile)
                break
            except RuntimeError as error:
                if not memory_ran_out(error):
                    raise
            free_memory(self.placement)
            if tile <= SMALLEST_TILE:
                raise EngineFailed(
                    f"The memory of {self.placement.device} ran out while {self.name} enlarged the picture. "
                    "Choose another upscaler, or latent."
                )
            tile //= 2
        top, left = wrap[0] * self.scale, wrap[1] * self.scale
        height, width = enlarged.shape[:2]
        return Image.fromarray(enlarged[top : height - top, left : width - left].copy())

    def _tiles(self, pixels: np.ndarray, tile: int) -> Generator[tuple[int, int], None, np.ndarray]:
        """Overlapping tiles, each faded into its neighbours."""
        height, width, scale = *pixels.shape[:2], self.scale
        whole = np.zeros((height * scale, width * scale, 3), np.float32)
        weights = np.zeros((height * scale, width * scale, 1), np.float32)
        corners = [(y, x) for y in starts(height, tile) for x in starts(width, tile)]
        for done, (y, x) in enumerate(corners):
            if done:
                yield done, len(corners)
            part = pixels[y : y + tile, x : x + tile]
            piece = self._enlarged(part)
            rows, columns = _share(y, part.shape[0], height, scale), _share(x, part.shape[1], width, scale)
            share = rows[:, None, None] * columns[None, :, None]
            place = (slice(y * scale, y * scale + len(rows)), slice(x * scale, x * scale + len(columns)))
            whole[place] += piece * share
            weights[place] += share
        whole /= weights
        return (whole * 255).round().astype(np.uint8)

    def _enlarged(self, pixels: np.ndarray) -> np.ndarray:
        """Height × width × 3: 0 … 255 in, 0 … 1 out."""
        unit = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
        dtype = self.network.dtype
        enlarged = self._computed(unit)
        if not enlarged.isfinite().all() and dtype == torch.float16:
            self.network.to(torch.float32)
            try:
                enlarged = self._computed(unit)
            finally:
                self.network.to(dtype)  # the next picture is not to depend on this one
        if not enlarged.isfinite().all():
            raise EngineFailed(f"The upscaler {self.name} computed values that are no numbers. Choose another.")
        values: np.ndarray = enlarged.numpy()
        return values

    def _computed(self, unit: Tensor) -> Tensor:
        """1 × 3 × height × width in, height × width × 3 out, both 0 … 1 in float32 on the CPU."""
        enlarged: Tensor = self.network(unit.to(self.network.device, self.network.dtype))
        return enlarged[0].permute(1, 2, 0).float().cpu()


def enlarge_to(upscaler: Upscaler, picture: Image.Image, size: tuple[int, int], axes: Axes = "none") -> Work:
    """The RGB picture at ``size`` (width, height): enlarged as often as that takes, cropped around its middle to the
    proportions of ``size``, and resampled. Raises ``EngineFailed``."""
    for _ in range(PASSES):
        if picture.width >= size[0] and picture.height >= size[1]:
            break
        picture = yield from upscaler.enlarge(picture, axes)
        if upscaler.scale == 1:
            break
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover ``length`` and share ``OVERLAP`` or a little more, evenly."""
    if length <= tile:
        return [0]
    count = ceil((length - OVERLAP) / (tile - OVERLAP))
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def _share(start: int, length: int, whole: int, scale: int) -> np.ndarray:
    """What a tile from ``start`` weighs along one of its edges: nothing in the outer quarter of an overlap, where the
    network has seen no neighbours, rising to 1 over the next half; 1 up to the edges of the picture."""
    positions = (np.arange(length * scale, dtype=np.float32) + 0.5) / (OVERLAP * scale)
    before = 2 * positions - 0.5 if start else np.ones_like(positions)
    after = 2 * positions[::-1] - 0.5 if start + length < whole else np.ones_like(positions)
    share: np.ndarray = np.clip(np.minimum(before, after), 0, 1)
    return share


def load(path: Path, placement: Placement) -> Upscaler:
    """The upscaler in a ``.safetensors`` or ``.pth`` file. Raises ``Unavailable``.

    In float16 where the device computes in less than float32 and the architecture can: bfloat16 has too few digits
    for the colours of a picture.
    """
    library = spandrel()
    weights = library.canonicalize_state_dict(_weights(path))
    try:
        network = library.ModelLoader().load_from_state_dict(weights)
    except library.UnsupportedModelError as error:
        raise Unavailable(f"{path.name} is of no upscaler architecture that is known here. Choose another.") from error
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise Unavailable(f"{path.name} is damaged or incomplete ({error}). Fetch it anew.") from error
    image_to_image = isinstance(network, library.ImageModelDescriptor) and network.purpose != "FaceSR"
    if not image_to_image or (network.input_channels, network.output_channels) != (3, 3):
        raise Unavailable(
            f"{path.name} ({network.architecture.name}) does not enlarge colour pictures. Choose another."
        )
    half = placement.dtype != torch.float32 and network.supports_half
    network.to(placement.device, torch.float16 if half else torch.float32).eval()
    return Upscaler(path.stem, network.scale, network, placement)


def _weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            weights: object = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unavailable(
            f"{path.name} holds more than weights, or is no model file; it is not run. Look for it as .safetensors."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise Unavailable(f"{path.name} cannot be read ({error}). Fetch it anew.") from error
    if not isinstance(weights, dict):
        raise Unavailable(f"{path.name} holds no weights. Choose another.")
    return weights


def spandrel() -> ModuleType:
    """The library. Raises ``Unavailable`` with the command that installs it."""
    if find_spec("spandrel") is None:
        command = f"{sys.executable} -m pip install --no-deps --requirement {REQUIREMENT}"
        raise Unavailable(f"Upscaler models need the package spandrel. Install it with: {command}")
    with _torchvision():
        import spandrel

        library: ModuleType = spandrel
    return library


@contextmanager
def _torchvision() -> Iterator[None]:
    """Inside, the functions that spandrel imports from torchvision can be imported, though never called."""
    if find_spec("torchvision") is not None:
        yield
        return

    def missing(*_: object, **__: object) -> None:
        raise Unavailable("This architecture needs torchvision, which is not installed. Choose another.")

    functional = ModuleType("torchvision.transforms.functional")
    vars(functional).update(normalize=missing, rotate=missing, InterpolationMode=missing)
    modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    modules[functional.__name__] = functional
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
