"""A UNet in bfloat16 beside the float32 one, for pictures that need not be exact, on processors that multiply such
numbers by themselves.

The copy wears the LoRAs that the UNet wears: they act on both.
"""

from typing import Any

import psutil
import torch
from torch import Tensor

from illustrious.images.diffusion.adapters import Adapters
from illustrious.images.diffusion.shortcuts import changed, forward

SPARE = 1.5
"""How many times the copy's size must be free before it is made."""


class RoundedUNet:
    """``shortcuts.forward`` of a copy of ``unet`` in bfloat16, made when it is asked first. Answers are float32.

    Where main memory does not suffice for the copy, ``unet`` itself answers, and ``problem`` says so; once that was
    told, the next call tries again.
    """

    def __init__(self, unet: Any, adapters: Adapters) -> None:
        self._unet = unet
        self._adapters = adapters
        self._copy: Any = None
        self.problem: str | None = None
        self._is_refused = False

    def __call__(self, **given: Any) -> tuple[Tensor, Tensor]:
        if self._copy is None and not self._is_refused:
            self._make()
        if self._copy is None:
            return forward(self._unet, **given)
        # The timestep stays as it is: bfloat16 cannot tell 999 from 1000.
        rounded = {name: value if name == "timestep" else changed(value, _rounded) for name, value in given.items()}
        answer, deep = forward(self._copy, **rounded)
        return answer.float(), deep

    def news(self) -> list[str]:
        """What its user should know."""
        self._is_refused = False  # room may have been made since
        return [] if self.problem is None else [self.problem]

    def _make(self) -> None:
        tensors = self._unet.state_dict()
        needed = sum(tensor.numel() for tensor in tensors.values()) * torch.bfloat16.itemsize
        self._is_refused = psutil.virtual_memory().available < needed * SPARE
        if self._is_refused:
            self.problem = (
                f"There was no room for a copy of the model in bfloat16 ({needed / 1e9:.1f} GB), so the picture took "
                "longer. Close other programs, or choose a smaller model."
            )
            return
        with torch.device("meta"):
            other = type(self._unet).from_config(self._unet.config)
        other.load_state_dict({name: _rounded(tensor) for name, tensor in tensors.items()}, assign=True)
        self._copy = other.eval().requires_grad_(False)
        self._adapters.act_on(self._copy)
        self.problem = None


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16)
