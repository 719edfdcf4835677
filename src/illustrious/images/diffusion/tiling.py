"""Seamless pictures: convolutions that see the opposite edge where there would be none.

A convolution pads what it sees with zeros; padded with the other side instead, and with everything else in the networks
blind to position, the picture goes on across its edges. Zeros are what the networks were trained with, so nothing is
changed but while a seamless picture is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from diffusers.models.downsampling import Downsample2D
from torch import Tensor, nn
from torch.nn import functional

Axes = Literal["none", "x", "y", "both"]
"""``x``: what leaves the picture on the right comes in on the left."""


@contextmanager
def seamless(model: nn.Module, axes: Axes) -> Iterator[None]:
    """Inside, the convolutions of ``model`` (a UNet, an autoencoder, an upscaler) wrap around along ``axes``.

    ``none`` touches nothing. It is for one call: pictures of other axes cannot share it, and nothing else may use the
    model meanwhile. The model is looked through each time, as it may have been given adapters since; some milliseconds
    for a whole UNet.
    """
    if axes == "none":
        yield
        return
    x, y = axes in ("x", "both"), axes in ("y", "both")
    changed = {module: partial(_padded, module, x, y) for module in model.modules() if isinstance(module, nn.Conv2d)}
    for module in model.modules():
        if isinstance(module, Downsample2D) and module.padding == 0 and isinstance(module.conv, nn.Conv2d):
            changed[module.conv] = partial(_filled, module.conv, x, y)
    try:
        for module, forward in changed.items():
            # On the instance, where it goes before the class's own; taking it away leaves no trace.
            module._conv_forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for module in changed:
            module.__dict__.pop("_conv_forward", None)


def _padded(module: nn.Conv2d, x: bool, y: bool, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``nn.Conv2d._conv_forward`` with the padding of these axes taken from the opposite edge."""
    left, right, top, bottom = module._reversed_padding_repeated_twice
    own = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if left or right:
        input = functional.pad(input, (left, right, 0, 0), "circular" if x else own)
    if top or bottom:
        input = functional.pad(input, (0, 0, top, bottom), "circular" if y else own)
    return functional.conv2d(input, weight, bias, module.stride, 0, module.dilation, module.groups)


def _filled(module: nn.Conv2d, x: bool, y: bool, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of an encoder's ``Downsample2D``, which has padded already: one column of zeros on the right, one row below."""
    input = input.clone()
    if x:
        input[..., -1] = input[..., 0]
    if y:
        input[..., -1, :] = input[..., 0, :]
    return functional.conv2d(input, weight, bias, module.stride, 0, module.dilation, module.groups)
