"""Layers that multiply in 8-bit floating point (E4M3), which Hopper, Ada and later do at twice bf16's rate.

Weights are scaled and rounded once; what comes in is scaled at every call by its own largest value ("dynamic
quantisation", one scale for the whole tensor). The products are summed in float32 and leave in the layer's own dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from benchmarks.replaced import replaced
from torch import Tensor, nn
from torch.nn.functional import pad

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max
CAPABILITY = (8, 9)
"""The first compute capability with such products."""


def check_float8(device: torch.device) -> None:
    """Raises ``RuntimeError`` for a card that cannot."""
    if device.type == "cuda" and (own := torch.cuda.get_device_capability(device)) < CAPABILITY:
        raise RuntimeError(f"fp8 needs compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, this has {own[0]}.{own[1]}")


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values in E4M3, and the scale to multiply them with (float32, no axes)."""
    scale = values.abs().amax().float().clamp(min=1e-12) / LARGEST
    return (values / scale).clamp(-LARGEST, LARGEST).to(DTYPE), scale


class Float8Linear(nn.Module):
    """In the place of a linear layer whose numbers of inputs and outputs are multiples of 16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.outputs = linear.out_features
        self.weight, self.scale = rounded(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, given: Tensor) -> Tensor:
        values, scale = rounded(given.flatten(0, -2).contiguous())
        return self._product(values, scale, given.dtype).view(*given.shape[:-1], self.outputs)

    def _product(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        output: Tensor = torch._scaled_mm(
            values,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=dtype,
            use_fast_accum=True,
        )
        return output


class Float8Convolution(Float8Linear):
    """In the place of a convolution whose numbers of channels are multiples of 16.

    Torch has none in fp8. So what lies under the kernel at each place is written out as a row, and the rows go through
    a linear layer: up to nine times the bytes, of half the size.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        rows = nn.Linear(convolution.weight[0].numel(), convolution.out_channels, bias=False, device="meta")
        rows.weight = nn.Parameter(convolution.weight.detach().permute(0, 2, 3, 1).flatten(1), requires_grad=False)
        super().__init__(rows)
        self.bias = convolution.bias
        self.kernel, self.stride, self.padding = convolution.kernel_size, convolution.stride, convolution.padding

    def forward(self, given: Tensor) -> Tensor:
        values, scale = rounded(given)
        below, beside = (int(padding) for padding in self.padding)
        # As bytes, which all that copies knows: 0 is 0.
        places = pad(values.view(torch.uint8), (beside, beside, below, below)).permute(0, 2, 3, 1)
        for axis, (kernel, stride) in enumerate(zip(self.kernel, self.stride, strict=True), start=1):
            places = places.unfold(axis, kernel, stride)
        rows = places.permute(0, 1, 2, 4, 5, 3).reshape(-1, self.weight.shape[1]).view(DTYPE)
        output = self._product(rows, scale, given.dtype)
        return output.view(*places.shape[:3], self.outputs).permute(0, 3, 1, 2)


@contextmanager
def float8(unet: nn.Module, convolutions: bool = False) -> Iterator[None]:
    """Within it, the linear layers of the UNet's transformers are such, and with ``convolutions`` these. Raises
    ``RuntimeError``."""
    check_float8(next(unet.parameters()).device)
    others: dict[str, nn.Module] = {}
    for name, layer in unet.named_modules():
        if (
            isinstance(layer, nn.Linear)
            and ".attentions." in name
            and not (layer.in_features | layer.out_features) % 16
        ):
            others[name] = Float8Linear(layer)
        if convolutions and isinstance(layer, nn.Conv2d) and not (layer.in_channels | layer.out_channels) % 16:
            others[name] = Float8Convolution(layer)
    with replaced(unet, others):
        yield
