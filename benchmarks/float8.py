"""Linear layers that multiply in 8-bit floating point (E4M3), which Hopper, Ada and later do at twice bf16's rate.

Weights are scaled and rounded once; what comes in is scaled at every call by its own largest value ("dynamic
quantisation", one scale for the whole tensor). The products are summed in float32 and leave in the layer's own dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from benchmarks.replaced import replaced
from torch import Tensor, nn

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
        output = torch._scaled_mm(
            values,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=given.dtype,
            use_fast_accum=True,
        )
        return output.view(*given.shape[:-1], self.outputs)


@contextmanager
def float8(unet: nn.Module) -> Iterator[None]:
    """Within it, the linear layers of the UNet's transformers are such. Raises ``RuntimeError``."""
    check_float8(next(unet.parameters()).device)
    layers = {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and ".attentions." in name and not (layer.in_features | layer.out_features) % 16
    }
    with replaced(unet, {name: Float8Linear(layer) for name, layer in layers.items()}):
        yield
