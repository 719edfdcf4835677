"""Where the model runs: device and dtype, and what running out of memory looks like there."""

from dataclasses import dataclass
from typing import Literal

import torch

from illustrious.errors import Unavailable

Backend = Literal["cuda", "rocm", "mps", "cpu"]


@dataclass(frozen=True)
class Placement:
    device: torch.device
    backend: Backend
    dtype: torch.dtype


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
