"""Where the model runs: device and dtype, how much memory it has, and what running out of it looks like there."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from illustrious.errors import Unavailable
from illustrious.system import forget_peak_memory, peak_memory

MOST_PICTURES = 16
"""In one call of the UNet: beyond that no device gains anything."""

Backend = Literal["cuda", "rocm", "mps", "cpu"]


@dataclass(frozen=True)
class Placement:
    device: torch.device
    backend: Backend
    dtype: torch.dtype

    @property
    def can_offload(self) -> bool:
        """There is a main memory beside the device's, which has room when that has none."""
        return self.device.type == "cuda"

    @property
    def compiles(self) -> bool:
        """Compiled models are faster by more than compiling them is worth: not on a CPU (docs/performance-log.md)."""
        return self.device.type == "cuda"

    @property
    def rounds(self) -> bool:
        """A float32 model is faster in bfloat16, by more than its copy costs."""
        able = torch.cpu.get_capabilities() if self.device.type == "cpu" else {}
        return self.dtype == torch.float32 and bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def place(asked: str | None) -> Placement:
    """The device called ``asked`` (``cuda``, ``cuda:1``, ``mps``, ``cpu``), or the best there is, in its best dtype.

    CUDA and ROCm take bfloat16 where the hardware computes it natively, else float16; MPS float16; CPU float32.
    Raises ``Unavailable`` for a device that is not there.
    """
    available = _available()
    try:
        device = torch.device(asked or available[0])
    except RuntimeError as error:
        raise _no_such(asked, available) from error
    if device.type not in available or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise _no_such(asked, available)
    if device.type == "cuda":
        # ROCm's build of torch calls its devices "cuda" as well.
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Placement(device, "rocm" if torch.version.hip else "cuda", torch.bfloat16 if native else torch.float16)
    if device.type == "mps":
        return Placement(device, "mps", torch.float16)
    return Placement(device, "cpu", torch.float32)


def _available() -> list[str]:
    """The kinds of device that are here, best first."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, present in here.items() if present]


def _no_such(asked: str | None, available: list[str]) -> Unavailable:
    return Unavailable(f"There is no device {asked!r} here. Choose one of: {', '.join(available)}.")


def memory_ran_out(error: RuntimeError) -> bool:
    """Torch has a class for a full GPU; a full main memory it tells apart only by words."""
    full = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in full)


def free_memory(placement: Placement) -> None:
    """Give back what torch keeps for later, after a picture that was too large."""
    if placement.device.type == "cuda":
        torch.cuda.empty_cache()
    elif placement.device.type == "mps":
        torch.mps.empty_cache()


class Memory:
    """How many pictures fit into one call of the UNet, by what the calls before have taken.

    ``limit`` in bytes is what this process may take of the device; ``None``: all there is. A *kind* of call is one
    model, size and so on: whatever takes equally much for each picture.
    """

    def __init__(self, placement: Placement, limit: int | None = None) -> None:
        self._placement = placement
        self._limit = limit
        self._taken: dict[Hashable, float] = {}
        self._fitted: dict[Hashable, int] = {}
        self._most: dict[Hashable, int] = {}

    @property
    def device(self) -> torch.device:
        return self._placement.device

    def room(self, kind: Hashable) -> int:
        """How many pictures the next call may hold, at least one: no more than fit by measure into what is free now,
        and no more than twice as many as have been seen to fit."""
        seen = 2 * self._fitted.get(kind, 0) or 1
        most = min(seen, self._most.get(kind, MOST_PICTURES), MOST_PICTURES)
        taken = self._taken.get(kind, 0.0)
        return max(1, min(most, int(self.free // taken))) if taken else most

    @contextmanager
    def measuring(self, kind: Hashable, pictures: int) -> Iterator[None]:
        """Around a call of so many pictures. One that raises teaches nothing."""
        if pictures <= self._fitted.get(kind, 0):
            yield
            return
        before = self._begin_measuring()
        yield
        self._taken[kind] = max(self._taken.get(kind, 0.0), (self._peak() - before) / pictures)
        self._fitted[kind] = pictures

    def ran_out(self, kind: Hashable, pictures: int) -> None:
        """So many were too many."""
        self._most[kind] = max(1, pictures // 2)
        free_memory(self._placement)

    @property
    def free(self) -> int:
        """Bytes."""
        device = self._placement.device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            # What torch has taken and not given out is free, too.
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            used = torch.cuda.memory_allocated(device)
        elif device.type == "mps":
            used = torch.mps.current_allocated_memory()
            free = torch.mps.recommended_max_memory() - used
        else:
            free, used = psutil.virtual_memory().available, psutil.Process().memory_info().rss
        return max(0, free if self._limit is None else min(free, self._limit - used))

    def _begin_measuring(self) -> int:
        device = self._placement.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device)
        if device.type == "mps":
            return torch.mps.current_allocated_memory()
        forget_peak_memory()
        return psutil.Process().memory_info().rss

    def _peak(self) -> int:
        device = self._placement.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        if device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return peak_memory()
