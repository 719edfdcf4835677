"""The captioner: a small convolutional network that says what a drawing is of. Trained by ``training/captioner.py``.

A residual network (He et al., "Deep Residual Learning for Image Recognition", 2016) on 64 × 64 pixels with four
answers: the thing, its colour, the ground's colour, how many.
"""

from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from illustrious.checksums import verify
from illustrious.errors import Unavailable
from illustrious.types import Noun
from illustrious.vision.drawing import Drawing, Guess, Thing, Word, named

SHIPPED = Path(str(files("illustrious") / "data" / "captioner"))

GUESSES = 5


class CaptionerConfig(Noun):
    """``things``, and the words of the other answers, in the order of the network's outputs; the output after the
    last thing is for a picture of none. ``temperatures``: what the logits of each answer are divided by, so that the
    probabilities are as often right as they say (Guo et al., "On Calibration of Modern Neural Networks", 2017).
    ``sure_from``: the probability from which on a thing is said outright."""

    size: int = 64
    channels: tuple[int, ...] = (24, 48, 96, 192)
    things: tuple[Thing, ...]
    colours: tuple[str, ...]
    grounds: tuple[str, ...]
    amounts: tuple[str, ...]
    temperatures: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    sure_from: float = 0.7


class Answers(NamedTuple):
    """(n, …) logits."""

    thing: Tensor
    colour: Tensor
    ground: Tensor
    amount: Tensor


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.skip = nn.Conv2d(channels, out, 1, stride, bias=False) if channels != out or stride > 1 else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        output = nn.functional.relu(self.first_norm(self.first(input)))
        return nn.functional.relu(self.skip(input) + self.second_norm(self.second(output)))


class Captioner(nn.Module):
    """(n, 3, size, size) pictures from −1 to 1 → the answers' logits."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        first, last = config.channels[0], config.channels[-1]
        self.stem = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.blocks = nn.Sequential(Block(first, first, stride=1))
        for before, channels in pairwise(config.channels):
            self.blocks.append(Block(before, channels, stride=2))
        words = (len(config.things) + 1, len(config.colours), len(config.grounds), len(config.amounts))
        self.answers = nn.ModuleList(nn.Linear(last, count) for count in words)

    def forward(self, pictures: Tensor) -> Answers:
        features = nn.functional.relu(self.stem_norm(self.stem(pictures)))
        features = self.blocks(features).mean(dim=(2, 3))
        return Answers(*(answer(features) for answer in self.answers))


class Reader:
    """The network with its words. Raises ``Unavailable`` when a file of ``folder`` is missing or damaged."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        verify(folder, "The captioner")
        try:
            self.config = CaptionerConfig.model_validate_json((folder / "config.json").read_bytes())
        except ValidationError as error:
            raise Unavailable("The captioner is not of this studio's version. Install the studio again.") from error
        self._network = Captioner(self.config)
        self._network.load_state_dict(load_file(folder / "model.safetensors"))
        self._network.float().eval()

    @torch.inference_mode()
    def read(self, pixels: bytes) -> Drawing:
        """``size`` × ``size`` RGB bytes."""
        size = self.config.size
        picture = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(size, size, 3)
        return interpret(self._network(normalise(picture.unsqueeze(0))), self.config)[0]


def interpret(answers: Answers, config: CaptionerConfig) -> list[Drawing]:
    """What the answers say of each picture."""
    shares = [
        (logits.float() / temperature).softmax(dim=1)
        for logits, temperature in zip(answers, config.temperatures, strict=True)
    ]
    return [_drawing([share[place] for share in shares], config) for place in range(len(shares[0]))]


def _drawing(shares: list[Tensor], config: CaptionerConfig) -> Drawing:
    things = shares[0][:-1]
    best = things.topk(min(GUESSES, len(things)))
    guesses = tuple(
        Guess(thing=config.things[index], probability=share)
        for index, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    kinds: dict[str, float] = {}
    for thing, share in zip(config.things, things.tolist(), strict=True):
        kinds[thing.kind] = kinds.get(thing.kind, 0.0) + share
    colour, ground, amount = (
        Word(word=words[int(share.argmax())], probability=float(share.max()))
        for words, share in zip((config.colours, config.grounds, config.amounts), shares[1:], strict=True)
    )
    return Drawing(
        drawn=1 - float(shares[0][-1]),
        guesses=guesses,
        kind=max(
            (Word(word=word, probability=share) for word, share in kinds.items()), key=lambda kind: kind.probability
        ),
        colour=colour,
        ground=ground,
        amount=amount,
        sure=sum(guess.probability for guess in named(guesses, amount)) >= config.sure_from,
    )


def normalise(pictures: Tensor) -> Tensor:
    """(n, size, size, 3) bytes → (n, 3, size, size) from −1 to 1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
