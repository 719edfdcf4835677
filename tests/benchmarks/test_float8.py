"""Linear layers in 8-bit floating point: nearly the same, and gone without a trace."""

import pytest
import torch
from benchmarks.float8 import Float8Convolution, Float8Linear, float8
from torch import nn


def test_products_are_as_near_as_three_bits_of_mantissa_allow() -> None:
    """Rounding both factors to 1 part in 16 leaves some 4 % of a sum of products that have no common direction."""
    torch.manual_seed(0)
    linear = nn.Linear(256, 128, dtype=torch.bfloat16)
    given = torch.randn(2, 77, 256, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact = nn.functional.linear(given.double(), linear.weight.double(), linear.bias.double())
        error = (Float8Linear(linear)(given).double() - exact).norm() / exact.norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_convolutions_are_as_near(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 48, kernel, stride, padding, dtype=torch.bfloat16)
    given = torch.randn(2, 32, 12, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = nn.functional.conv2d(
            given.double(), convolution.weight.double(), convolution.bias.double(), stride, padding
        )
        product = Float8Convolution(convolution)(given)
    assert product.shape == exact.shape
    assert 0 < (product.double() - exact).norm() / exact.norm() < 0.05


def test_the_layers_come_back() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attentions = nn.ModuleList([nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 30))])

    model = nn.Module()
    model.down = Block()
    before = dict(model.named_modules())
    with float8(model):
        kinds = [type(layer) for layer in model.down.attentions[0]]
        assert kinds == [Float8Linear, nn.Linear]  # 30 is no multiple of 16
    assert dict(model.named_modules()) == before
