"""What requests name, from the user's folders into memory: models, LoRAs, autoencoders, upscalers, words, wildcards."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from illustrious.catalog.kinds import Kind
from illustrious.catalog.library import STARTER, Library
from illustrious.errors import EngineFailed, InvalidRequest, Unavailable
from illustrious.images.diffusion.autoencoders import Autoencoders
from illustrious.images.diffusion.compiled import CompiledUNet
from illustrious.images.diffusion.denoise import Picture
from illustrious.images.diffusion.draw import Surroundings
from illustrious.images.diffusion.embeddings import Embeddings
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Memory
from illustrious.images.diffusion.preview import Previewer
from illustrious.images.diffusion.recent import Recent
from illustrious.images.diffusion.shelf import Shelf
from illustrious.images.diffusion.upscale import Upscaler
from illustrious.images.diffusion.upscale import load as load_upscaler
from illustrious.images.diffusion.wildcards import WildcardFiles, Wildcards
from illustrious.types import ImageRequest

UPSCALERS = 512 * 2**20
"""Bytes of upscalers kept in memory; one has some 70 MB."""


class Stock:
    """``first`` is the model that is loaded already, from ``path`` (``None``: the starter): for all that name none."""

    def __init__(
        self, library: Library, first: Model, path: Path | None, memory: Memory, with_previews: bool = False
    ) -> None:
        self._library = library
        self._path = path
        self._names = {path: STARTER.name if path is None else library.default().name}
        self._device = first.placement.device
        self._shelf = Shelf(first.placement, memory)
        self._shelf.put(path, first)
        self._autoencoders = Autoencoders(first.placement)
        self._upscalers: Recent[Upscaler] = Recent(
            UPSCALERS, lambda upscaler: sum(value.nbytes for value in upscaler.network.model.state_dict().values())
        )
        self._with_previews = with_previews
        self._previewers: WeakKeyDictionary[Model, Previewer | None] = WeakKeyDictionary()
        self._words: tuple[tuple[dict[str, Path], tuple[int, int]], Embeddings] | None = None

    def surroundings(self, max_pixels: int) -> Surroundings:
        return Surroundings(
            self.find, self.vae, self.upscaler, self.embeddings, self.wildcards, self.prepare, max_pixels
        )

    def find(self, kind: Kind, name: str, field: str) -> Path:
        """Raises ``InvalidRequest``."""
        return self._library.find(kind, name, field).path

    def model_of(self, request: ImageRequest, busy: Collection[Model]) -> Model | None:
        """The model a request is drawn with; ``None`` when it must wait for room. Raises ``InvalidRequest``."""
        path = self._path
        if request.model is not None:
            entry = self._library.find("checkpoint", request.model, "model")
            path = None if entry == STARTER else entry.path
            if self._path is not None and path is not None and path.resolve() == self._path.resolve():
                path = self._path
            self._names[path] = entry.name
        try:
            return self._shelf.take(path, busy)
        except Unavailable as error:
            raise InvalidRequest(str(error), field="model") from error

    @property
    def held(self) -> dict[str, str]:
        """The models in memory by the names that requests call them, and where: on the device or in main memory."""
        device = str(self._device)
        return {self._names[path]: device if is_there else "cpu" for path, is_there in self._shelf.warm.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong with the models in memory, and costs time."""
        return tuple(
            f"{self._names[path]}: {problem}"
            for path, model in self._shelf.models.items()
            for problem in model.problems
        )

    @property
    def compiling(self) -> CompiledUNet | None:
        """One that a compiler is at work for."""
        beside = (model.compiled for model in self._shelf.models.values())
        return next((compiled for compiled in beside if compiled is not None and compiled.is_compiling), None)

    def vae(self, model: Model, name: str) -> Any:
        """Raises ``InvalidRequest``."""
        return self._autoencoders.load(self.find("vae", name, "vae"), name, model.vae)

    def upscaler(self, model: Model, name: str) -> Upscaler:
        """Raises ``InvalidRequest``."""
        path = self.find("upscaler", name, "hires")
        try:
            return self._upscalers.get((path, path.stat().st_mtime_ns), lambda: load_upscaler(path, model.placement))
        except OSError as error:
            raise InvalidRequest(
                f"The upscaler {name} cannot be read ({error.strerror}). Check {path}.", field="hires"
            ) from error
        except Unavailable as error:
            raise InvalidRequest(f"The upscaler {name} cannot be used: {error}", field="hires") from error

    def embeddings(self, model: Model) -> Embeddings:
        """The learned words there are now, for the text encoders of this model."""
        key = (self._library.embeddings(), model.embedding_widths)
        if self._words is None or self._words[0] != key:
            self._words = key, Embeddings(*key)
        return self._words[1]

    def wildcards(self) -> Wildcards:
        return WildcardFiles(self._library.wildcards())

    def prepare(self, model: Model) -> Callable[[], None] | None:
        """What makes the model's previews possible, unless that is done or not wanted."""
        return partial(self._fit, model) if self._with_previews and model not in self._previewers else None

    def _fit(self, model: Model) -> None:
        try:
            self._previewers[model] = Previewer(model.vae, model.preview)
        except EngineFailed:  # the picture may have another VAE; if not, it fails by itself and says why
            self._previewers[model] = None

    def preview(self, model: Model, picture: Picture) -> bytes | None:
        previewer = self._previewers.get(model)
        return None if previewer is None else previewer.preview(picture.estimate())
