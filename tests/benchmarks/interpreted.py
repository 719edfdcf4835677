"""The kernels in Triton against torch, by Triton's interpreter: a process of its own, with ``TRITON_INTERPRET=1``.

It prints a line for each comparison, and ends with an error at the first that fails.
"""

import itertools
from copy import deepcopy

import benchmarks.fusions as in_torch
import benchmarks.triton_kernels as in_triton
import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)
PICTURES = (
    # rows, channels, height, width, groups
    (2, 32, 8, 8, 32),
    (2, 96, 5, 7, 32),
    (1, 60, 33, 9, 3),
    (1, 6, 71, 61, 2),  # several chunks along a channel, the last of them short
    (1, 6, 1, 1, 2),
)
UNITS = ((2, 9, 40), (1, 3, 1300), (1, 2, 1024), (5, 7))
"""Places and then a width; what comes in has twice that."""


def check(what: str, answer: Tensor, like: Tensor, exact: Tensor) -> None:
    """Each value is that in float64, rounded once to the dtype. Beside it stands how far torch's own answer is.

    The interpreter cuts bfloat16 off where a GPU rounds, so a whole last place may be lost, and not half of one.
    """
    allowed = torch.finfo(answer.dtype).eps * exact.abs() + 1e-6 * exact.abs().max()
    own, its = (float(((each.double() - exact).abs() / allowed).max()) for each in (answer, like))
    print(f"{what}: {own:.2f} of what is allowed, torch {its:.2f}")
    assert answer.dtype == like.dtype
    assert answer.shape == like.shape
    assert own <= 1


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    for dtype, (rows, channels, height, width, groups) in itertools.product(DTYPES, PICTURES):
        norm = nn.GroupNorm(groups, channels)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.to(dtype)
        for memory_format in FORMATS:
            given = (3 * torch.randn(rows, channels, height, width) + 5).to(dtype).to(memory_format=memory_format)
            answer = in_triton.norm_and_silu(given, norm)
            assert answer.stride() == given.stride()
            exact = in_torch.norm_and_silu(given.double(), deepcopy(norm).double())
            what = f"GroupNorm and SiLU, {tuple(given.shape)}, {groups} groups, {dtype}, {memory_format}"
            check(what, answer, in_torch.norm_and_silu(given, norm), exact)
    for dtype, (*places, width) in itertools.product(DTYPES, UNITS):
        given = torch.randn(*places, 2 * width).to(dtype)
        exact = in_torch.gated(given.double())
        check(f"GEGLU, {tuple(given.shape)}, {dtype}", in_triton.gated(given), in_torch.gated(given), exact)


if __name__ == "__main__":
    main()
