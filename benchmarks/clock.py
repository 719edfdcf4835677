"""How long work takes on a device, by the device's own events; and how much memory."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from illustrious.system import forget_peak_memory, peak_memory


@dataclass(frozen=True)
class Spread:
    """Milliseconds."""

    low: float
    median: float
    high: float


class Clock:
    """For one device. Work that ends on the host is timed to its end there."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._device = device

    def once(self, work: Callable[[], object]) -> float:
        """Milliseconds, without warm-up."""
        if not self._is_cuda:
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1000
        torch.cuda.synchronize(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def spread(self, work: Callable[[], object], times: int = 10, warm_up: int = 2) -> Spread:
        for _ in range(warm_up):
            work()
        taken = [self.once(work) for _ in range(times)]
        return Spread(min(taken), statistics.median(taken), max(taken))

    def peak(self, work: Callable[[], object]) -> float:
        """GB that were in use at most while it ran."""
        self.tidy()
        if not self._is_cuda:
            forget_peak_memory()
            work()
            return peak_memory() / 1e9
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device) / 1e9

    def tidy(self) -> None:
        """Give back what nobody uses any more."""
        gc.collect()
        if self._is_cuda:
            torch.cuda.empty_cache()
