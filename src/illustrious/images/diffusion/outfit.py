"""What a picture wears while it is drawn: LoRAs, seamless edges, and the pictures that guide it.

The model itself stays as it is. What is worn is put on for one call of a network and is off again, or changed for the
next picture's, before the next; so pictures of different outfits take turns on one model.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from illustrious.catalog.kinds import Kind
from illustrious.images.diffusion.adapters import Loras, WeightedLora, text_key
from illustrious.images.diffusion.canvas import Canvas
from illustrious.images.diffusion.conditioner import ConditioningSchedule, EmbeddingLookup, Half
from illustrious.images.diffusion.controlnet import Guide, Residuals, control_image, residuals
from illustrious.images.diffusion.denoise import Control
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.shortcuts import Parts, forward, has_parts
from illustrious.images.diffusion.tiling import Axes, seamless
from illustrious.types import ImageRequest, Speed

Find = Callable[[Kind, str, str], Path]
"""Kind, name and the request's field that names it → its file. Raises ``InvalidRequest``."""


BARE = (
    "The compiled model takes no LoRAs, so this picture was drawn by the model as it is, which takes longer. For the "
    "full speed leave them out, or use a checkpoint that the LoRA was merged into."
)

SEAMLESS = (
    "With seamless edges a picture changes visibly when anything is rounded or left out, so nothing was, which takes "
    "longer. For the full speed leave them out."
)


@dataclass(frozen=True)
class Outfit:
    """``loras`` act on the ``model``; along ``axes`` the picture goes on at the opposite edge."""

    model: Model
    loras: Loras
    axes: Axes

    @property
    def key(self) -> Hashable:
        """Pictures of one model with equal keys wear the same."""
        return tuple((used.lora.identity, used.weight, used.text_weight) for used in self.loras), self.axes

    def parts(self, speed: Speed) -> tuple[Parts | None, list[str]]:
        """The UNet in two parts for pictures that are not exact, rounded or compiled where the device gains by it;
        ``None``: it has none, or is asked whole. And what is lost by what is worn."""
        if speed == "exact" or not has_parts(self.model.unet):
            return None, []
        compiled = self.model.compiled
        if self.axes != "none":
            would_be_faster = self.model.rounded is not None or (compiled is not None and compiled.may_draw)
            return None, [SEAMLESS] if speed == "fast" or would_be_faster else []
        if self.model.rounded is not None:
            return self.model.rounded, []
        if compiled is not None and not self.loras:
            return compiled, []
        is_lost = compiled is not None and compiled.may_draw
        return partial(forward, self.model.unet), [BARE] if is_lost else []

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Around a call of the UNet or the text encoders."""
        self.model.adapters.use(self.loras)
        with seamless(self.model.unet, self.axes):
            yield

    def worn_by(self, vae: torch.nn.Module) -> AbstractContextManager[None]:
        """Around a call of the VAE."""
        return seamless(vae, self.axes)

    def condition(
        self,
        request: ImageRequest,
        size: tuple[int, int],
        steps: int,
        guided: bool,
        embeddings: EmbeddingLookup | None,
        first_steps: int | None,
    ) -> tuple[ConditioningSchedule, list[str]]:
        """What the UNet is told at each step, and warnings."""
        self.model.adapters.use(self.loras)
        return self.model.conditioner.condition(
            request,
            size,
            steps,
            guided,
            adapters=text_key(self.loras),
            embeddings=embeddings,
            first_steps=first_steps,
        )

    def control(self, request: ImageRequest, canvas: Canvas, find: Find, max_pixels: int) -> Control | None:
        """The guides of the request for a canvas of this size. Raises ``InvalidRequest`` and ``TooLarge``."""
        guides = [
            Guide(
                self.model.controlnets.load(find("controlnet", control.model, "control"), control.model),
                control_image(control.image, canvas.size, self.model.placement, max_pixels, canvas.frame),
                control.weight,
                control.start,
                control.end,
            )
            for control in request.control
        ]
        if not guides:
            return None

        def control(
            sample: Tensor, timestep: Tensor, halves: Sequence[Half], turn: int, turns: int
        ) -> Residuals | None:
            embeddings, pooled, sizes = (
                torch.cat([getattr(half, name) for half in halves]) for name in ("embeddings", "pooled", "sizes")
            )
            with ExitStack() as worn:
                for model in {id(guide.model): guide.model for guide in guides}.values():
                    worn.enter_context(seamless(model, self.axes))
                return residuals(guides, sample, timestep, embeddings, pooled, sizes, turn, turns)

        return control


def dress(model: Model, request: ImageRequest, find: Find) -> tuple[Outfit, list[str]]:
    """What the request asks for, loaded, and warnings. Raises ``InvalidRequest`` for what is missing or does not fit.

    A LoRA named twice acts with the sum of its weights.
    """
    loras: dict[Path, WeightedLora] = {}
    for asked in request.loras:
        path = find("lora", asked.name, "loras")
        text_weight = asked.weight if asked.text_weight is None else asked.text_weight
        before = loras.get(path)
        loras[path] = WeightedLora(
            model.adapters.load(path, asked.name),
            asked.weight + (before.weight if before else 0.0),
            text_weight + (before.text_weight if before else 0.0),
        )
    worn = tuple(loras.values())
    return Outfit(model, worn, request.tiling), model.adapters.use(worn)
