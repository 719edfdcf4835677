"""What a card can do at most: no picture is faster."""

from collections.abc import Iterator

import torch
from benchmarks.clock import Clock, Spread
from benchmarks.float8 import DTYPE, check_float8
from benchmarks.report import Row


class Ceilings:
    """``bf16`` is known once it is measured: operations per second of a large matrix product."""

    def __init__(self, clock: Clock, device: torch.device, edge: int, copied: int) -> None:
        self.bf16: float | None = None
        self._clock = clock
        self._device = device
        self._edge = edge
        self._copied = copied

    def copying(self) -> Iterator[Row]:
        """Bytes read and bytes written are both counted."""
        here = torch.ones(self._copied, dtype=torch.uint8, device=self._device)
        there = torch.empty_like(here)
        taken = self._clock.spread(lambda: there.copy_(here))
        yield _rate("copy, read and written", 2 * self._copied / 1e12, "TB/s", taken)

    def bf16_product(self) -> Iterator[Row]:
        left, right = self._random(), self._random()
        taken = self._clock.spread(lambda: left @ right)
        self.bf16 = self._operations / taken.median * 1e3
        yield _rate(f"bf16 matrix product, {self._edge}³", self._operations / 1e12, "TFLOP/s", taken)

    def float8_product(self) -> Iterator[Row]:
        check_float8(self._device)
        left, right = self._random().to(DTYPE), self._random().to(DTYPE).t()
        one = torch.ones((), device=self._device)
        taken = self._clock.spread(
            lambda: torch._scaled_mm(
                left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        )
        yield _rate(f"fp8 matrix product, {self._edge}³", self._operations / 1e12, "TFLOP/s", taken)

    @property
    def _operations(self) -> float:
        return 2.0 * self._edge**3

    def _random(self) -> torch.Tensor:
        return torch.randn(self._edge, self._edge, dtype=torch.bfloat16, device=self._device)


def _rate(what: str, amount: float, unit: str, taken: Spread) -> Row:
    low, median, high = (amount / milliseconds * 1e3 for milliseconds in (taken.high, taken.median, taken.low))
    return Row(what, median, unit, low, high)
