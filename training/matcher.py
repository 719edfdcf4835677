"""Pictures and captions as vectors: those that belong together are near one another.

A small dual encoder (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021). It
sees through a network that was trained on photographs and stays as it is.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from illustrious.vision.classifier import network
from training.captions import words
from training.icons import Pixels

JUDGE = Path(__file__).parent / "judge" / "judge.safetensors"
"""The one that is shipped."""

SIZE = 64
"""Pixels a side of what it looks at."""

PADDING, UNKNOWN = 0, 1


class Eye(nn.Module):
    """(n, 3, 64, 64) pictures from −1 to 1 → (n, cells, channels) at each of ``SHAPES``: what EfficientNet-Lite2 makes
    of 3 × 3 fields of them, in the middle and at its end, and their colours in 8 × 8."""

    SHAPES = ((9, 120), (9, 352), (64, 3))
    SIDE, MIDDLE = 96, 15

    def __init__(self) -> None:
        super().__init__()
        self.network = network.load().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        large = functional.interpolate(pictures, size=(self.SIDE, self.SIDE), mode="bilinear")
        with torch.autocast(pictures.device.type, torch.bfloat16):
            stem = functional.relu6(self.network._bn0(self.network._conv_stem(large)))
            middle = self.network._blocks[: self.MIDDLE](stem)
            end = self.network._blocks[self.MIDDLE :](middle)
        fields = (functional.adaptive_avg_pool2d(middle.float(), 3), end.float(), functional.avg_pool2d(pictures, 8))
        return tuple(each.flatten(2).transpose(1, 2) for each in fields)


def _norm(channels: int, few: int) -> nn.Module:
    """Colours are left as they are."""
    return nn.LayerNorm(channels) if channels > few else nn.Identity()


class Matcher(nn.Module):
    """The part that learns. ``vocabulary``: the words it knows; all others are one to it."""

    def __init__(self, vocabulary: Sequence[str], width: int = 64, hidden: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self._widths = {"width": width, "hidden": hidden}
        self._numbers = {word: number for number, word in enumerate(vocabulary, UNKNOWN + 1)}
        narrow = (32, 64, 3)
        self.fields = nn.ModuleList(
            nn.Sequential(_norm(channels, few), nn.Linear(channels, few), nn.GELU())
            for (_, channels), few in zip(Eye.SHAPES, narrow, strict=True)
        )
        together = sum(cells * few for (cells, _), few in zip(Eye.SHAPES, narrow, strict=True))
        self.look = nn.Sequential(
            nn.LayerNorm(together),
            nn.Dropout(dropout),
            nn.Linear(together, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.word = nn.Embedding(len(vocabulary) + 2, width, padding_idx=PADDING)
        self.phrase = nn.Conv1d(width, hidden, 3, padding=1)
        self.read = nn.Linear(hidden, width)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def features(self, fields: Sequence[Tensor]) -> Tensor:
        """What ``Eye`` gives of n pictures → (n, width)."""
        narrowed = [narrow(field).flatten(1) for narrow, field in zip(self.fields, fields, strict=True)]
        found: Tensor = self.look(torch.cat(narrowed, dim=1))
        return found

    def meanings(self, captions: Iterable[str]) -> Tensor:
        """(n, width). Each word is read with its neighbours: a blue owl is not an owl on a blue background."""
        numbers = pad_sequence([self.numbers(caption) for caption in captions], batch_first=True)
        numbers = numbers.to(self.sharpness.device)
        there = (numbers != PADDING)[..., None]
        phrases = functional.gelu(self.phrase(self.word(numbers).mT).mT) * there
        meant: Tensor = self.read(phrases.sum(dim=1) / there.sum(dim=1))
        return meant

    def numbers(self, caption: str) -> Tensor:
        return torch.tensor([self._numbers.get(word, UNKNOWN) for word in words(caption)])

    def likeness(self, features: Tensor, meanings: Tensor) -> Tensor:
        """(n, width) and (m, width) → (n, m) logits: of each picture, how much more it is one caption than another."""
        cosines = functional.normalize(features, dim=-1) @ functional.normalize(meanings, dim=-1).T
        return self.sharpness.exp().clamp(max=100) * cosines

    def save(self, file: Path) -> None:
        """Float16 weights; words and widths in the file's metadata."""
        tensors = {name: tensor.detach().half().contiguous() for name, tensor in self.state_dict().items()}
        metadata = {"words": json.dumps(list(self._numbers)), "widths": json.dumps(self._widths)}
        save_file(tensors, file, metadata)

    @classmethod
    def load(cls, file: Path) -> "Matcher":
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        matcher = cls(json.loads(metadata["words"]), **json.loads(metadata["widths"]))
        matcher.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
        return matcher.eval()


@dataclass(frozen=True, eq=False)
class Judge:
    """An eye and what was learned through it."""

    eye: Eye
    matcher: Matcher

    @classmethod
    def load(cls, file: Path = JUDGE) -> "Judge":
        return cls(Eye(), Matcher.load(file))

    @torch.no_grad()
    def features(self, pictures: Sequence[Pixels]) -> Tensor:
        """(64, 64, 3) each → (n, width)."""
        parts = (seen(pictures[first : first + 50]) for first in range(0, len(pictures), 50))
        return torch.cat([self.matcher.features(self.eye(part)) for part in parts])

    @torch.no_grad()
    def ranked(self, features: Tensor, captions: Sequence[str]) -> list[str]:
        """The captions of the picture with these (width,) features, the likeliest first."""
        likeness = self.matcher.likeness(features[None], self.matcher.meanings(captions))[0]
        return [captions[place] for place in likeness.argsort(descending=True)]


def reduced(picture: Image.Image) -> Pixels:
    """(64, 64, 3) sRGB: a picture at the size it is looked at."""
    return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def seen(pictures: Sequence[Pixels]) -> Tensor:
    """(n, 3, 64, 64) from −1 to 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
