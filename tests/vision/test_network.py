"""The network's input, against the reference formula; torch is allowed here, as in the child."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def test_pixels_are_brought_to_the_range_the_weights_were_trained_on() -> None:
    from illustrious.vision.classifier.network import normalise

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = (pixels.astype(np.float32) - 127) / 128  # MEAN_RGB and STDDEV_RGB of efficientnet/lite
    assert np.array_equal(normalise(pixels.tobytes(), 8).numpy()[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("length", "kernel", "stride"), [(260, 3, 2), (65, 3, 2), (33, 5, 2), (17, 5, 1), (9, 3, 1)])
def test_padding_is_tensorflows_same(length: int, kernel: int, stride: int) -> None:
    """Out = ⌈in / stride⌉, and the first window starts ⌊total / 2⌋ before the picture."""
    from illustrious.vision.classifier.network import SameConv2d

    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.zeros_(convolution.weight)
    convolution.weight.data[0, 0, kernel // 2, kernel // 2] = 1.0  # each output is the pixel in its window's middle
    picture = torch.arange(length * length, dtype=torch.float32).reshape(1, 1, length, length)
    output = convolution(picture)
    size = -(-length // stride)
    before = max((size - 1) * stride + kernel - length, 0) // 2
    first = kernel // 2 - before
    assert output.shape[-2:] == (size, size)
    assert torch.equal(output[0, 0], picture[0, 0, first::stride, first::stride])
