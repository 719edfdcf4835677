"""What can be known of a model file: the noun, and the words for its parts."""

from typing import Literal

from illustrious.catalog.families import Family
from illustrious.catalog.kinds import Kind
from illustrious.catalog.prediction import Prediction, Sure
from illustrious.types import Noun

Base = Literal["sdxl", "sdxl-inpainting", "sdxl-refiner", "sd1", "sd2", "other"]

DRAWN_WITH: tuple[Base, ...] = ("sdxl", "sdxl-inpainting")
"""Bases of checkpoints that the SDXL engine draws with."""

TITLES: dict[Base, str] = {
    "sdxl": "an SDXL model",
    "sdxl-inpainting": "an SDXL model for inpainting",
    "sdxl-refiner": "SDXL's refiner",
    "sd1": "a model of Stable Diffusion 1",
    "sd2": "a model of Stable Diffusion 2",
    "other": "a model of another family than Stable Diffusion",
}

WIDTHS: dict[int, Base] = {2048: "sdxl", 768: "sd1", 1024: "sd2", 1280: "sdxl-refiner"}
"""Width of the text that attention reads → base."""


class Identity(Noun):
    """``kind`` ``None``: nothing that is known here. ``base`` is that of the checkpoint, or of the checkpoints it goes
    with. ``family`` is one of SDXL's, ``sure`` how sure that is. ``width``/``height``: the native size in pixels, where
    the file tells. ``problem``: why it cannot be used, with the remedy."""

    kind: Kind | None = None
    base: Base | None = None
    family: Family | None = None
    sure: Sure = "guess"
    prediction: Prediction | None = None
    width: int | None = None
    height: int | None = None
    title: str | None = None
    author: str | None = None
    licence: str | None = None
    triggers: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def draws(self) -> bool:
        """Whether it is a checkpoint that the SDXL engine draws with."""
        is_edm = self.prediction is not None and self.prediction.is_edm
        return self.kind == "checkpoint" and self.base in DRAWN_WITH and not is_edm and self.problem is None
