"""GroupNorm followed by SiLU, and GEGLU, in as few passes over memory as can be: kernels in Triton.

Eager torch reads a tensor three times and writes it twice for the first (moments, norm, SiLU); here it is read twice
and written once. For GEGLU it reads three widths and writes two; here two and one. Everything is computed in float32
and rounded once, where torch rounds between its two functions as well.

Each group is cut into chunks of channels × pixels, so that two rows of 32 groups keep all of a card busy. One kernel
finds the mean of each chunk and the squares around it; the other puts these together (Chan, Golub and LeVeque, 1979)
and goes over the chunk again. A chunk is a stretch of one channel, or, where channels lie side by side (channels_last),
all channels of a stretch of pixels. That layout is taken and given as it is, where torch's norm copies it into the
other; only a few channels of a group are neighbours then, so memory is read in short pieces.

They need a GPU, or Triton's interpreter, which is slow: ``TRITON_INTERPRET=1`` before this is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

CHUNK, STRETCH = 4096, 1024
"""Values that one program takes: of a group, and of a row of a gated unit."""


def norm_and_silu(given: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Like ``fusions.norm_and_silu``."""
    if not given.is_contiguous(memory_format=torch.channels_last):
        given = given.contiguous()
    rows, channels, height, width = given.shape
    groups, pixels = norm.num_groups, height * width
    own = channels // groups
    wide = 1 if given.is_contiguous() else triton.next_power_of_2(own)
    long = min(max(CHUNK // wide, 1), triton.next_power_of_2(pixels))
    stretches = triton.cdiv(pixels, long)
    chunks = triton.cdiv(own, wide) * stretches
    shape = {
        "GROUPS": groups,
        "CHANNELS": own,
        "PIXELS": pixels,
        "FROM_CHANNEL": pixels if given.is_contiguous() else 1,
        "FROM_PIXEL": 1 if given.is_contiguous() else channels,
        "WIDE": wide,
        "LONG": long,
        "STRETCHES": stretches,
        "CHUNKS": chunks,
    }
    moments = torch.empty(rows * groups, chunks, 2, dtype=torch.float32, device=given.device)
    answer = torch.empty_like(given)
    _moments[rows * groups, chunks](given, moments, **shape)
    upper = triton.next_power_of_2(chunks)
    _normed[rows * groups, chunks](given, moments, norm.weight, norm.bias, answer, norm.eps, UPPER=upper, **shape)
    return answer


def gated(given: Tensor) -> Tensor:
    """Like ``fusions.gated``."""
    given = given.contiguous()
    *places, both = given.shape
    answer = given.new_empty(*places, both // 2)
    _gated[given.numel() // both, triton.cdiv(both // 2, STRETCH)](given, answer, both // 2, STRETCH=STRETCH)
    return answer


@triton.jit
def _chunk(
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    FROM_CHANNEL: tl.constexpr,
    FROM_PIXEL: tl.constexpr,
    WIDE: tl.constexpr,
    LONG: tl.constexpr,
    STRETCHES: tl.constexpr,
):
    """This program's chunk: where its values lie and which there are (WIDE × LONG), and its channels (WIDE × 1)."""
    row, group = tl.program_id(0) // GROUPS, tl.program_id(0) % GROUPS
    channel = tl.program_id(1) // STRETCHES * WIDE + tl.arange(0, WIDE)[:, None]
    pixel = tl.program_id(1) % STRETCHES * LONG + tl.arange(0, LONG)[None, :]
    there = (channel < CHANNELS) & (pixel < PIXELS)
    channel += group * CHANNELS
    picture = row.to(tl.int64) * (GROUPS * CHANNELS * PIXELS)
    return picture + channel * FROM_CHANNEL + pixel * FROM_PIXEL, there, channel


@triton.jit
def _values(
    chunk, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, LONG: tl.constexpr, STRETCHES: tl.constexpr
):
    """How many a chunk has: those at the edges have fewer."""
    return tl.minimum(CHANNELS - chunk // STRETCHES * WIDE, WIDE) * tl.minimum(PIXELS - chunk % STRETCHES * LONG, LONG)


@triton.jit
def _moments(
    given,
    moments,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    FROM_CHANNEL: tl.constexpr,
    FROM_PIXEL: tl.constexpr,
    WIDE: tl.constexpr,
    LONG: tl.constexpr,
    STRETCHES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Of each chunk the mean, and the sum of squares around it."""
    places, there, _ = _chunk(GROUPS, CHANNELS, PIXELS, FROM_CHANNEL, FROM_PIXEL, WIDE, LONG, STRETCHES)
    values = tl.load(given + places, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(values) / _values(tl.program_id(1), CHANNELS, PIXELS, WIDE, LONG, STRETCHES)
    around = tl.where(there, values - mean, 0.0)
    own = moments + (tl.program_id(0) * CHUNKS + tl.program_id(1)) * 2
    tl.store(own, mean)
    tl.store(own + 1, tl.sum(around * around))


@triton.jit
def _normed(
    given,
    moments,
    weight,
    bias,
    answer,
    eps,
    UPPER: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
    FROM_CHANNEL: tl.constexpr,
    FROM_PIXEL: tl.constexpr,
    WIDE: tl.constexpr,
    LONG: tl.constexpr,
    STRETCHES: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    chunk = tl.arange(0, UPPER)
    known = chunk < CHUNKS
    counts = tl.where(known, _values(chunk, CHANNELS, PIXELS, WIDE, LONG, STRETCHES), 0).to(tl.float32)
    own = moments + (tl.program_id(0) * CHUNKS + chunk) * 2
    means = tl.load(own, mask=known, other=0.0)
    mean = tl.sum(counts * means) / (CHANNELS * PIXELS)
    around = means - mean
    squares = tl.load(own + 1, mask=known, other=0.0) + counts * around * around
    factor = tl.rsqrt(tl.sum(squares) / (CHANNELS * PIXELS) + eps)

    places, there, channel = _chunk(GROUPS, CHANNELS, PIXELS, FROM_CHANNEL, FROM_PIXEL, WIDE, LONG, STRETCHES)
    values = tl.load(given + places, mask=there, other=0.0).to(tl.float32)
    is_real = channel < GROUPS * CHANNELS
    scale = tl.load(weight + channel, mask=is_real, other=0.0).to(tl.float32) * factor
    shift = tl.load(bias + channel, mask=is_real, other=0.0).to(tl.float32)
    normed = (values - mean) * scale + shift
    tl.store(answer + places, normed * tl.sigmoid(normed), mask=there)


@triton.jit
def _gated(given, answer, width, STRETCH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * STRETCH + tl.arange(0, STRETCH)
    there = place < width
    values = tl.load(given + row * 2 * width + place, mask=there, other=0.0).to(tl.float32)
    gates = tl.load(given + row * 2 * width + width + place, mask=there, other=0.0).to(tl.float32)
    gelu = 0.5 * gates * (1.0 + tl.erf(gates * 0.7071067811865476))
    tl.store(answer + row * width + place, values * gelu, mask=there)
