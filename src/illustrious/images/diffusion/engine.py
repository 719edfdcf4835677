"""The engine's face: commands in, events out. Torch is imported when it runs, not before."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from illustrious.catalog.identities import Identities
from illustrious.catalog.library import Library
from illustrious.errors import Unavailable
from illustrious.images import (
    Admit,
    Cancel,
    EngineOptions,
    Event,
    Held,
    Inbox,
    Loading,
    Ready,
    Stop,
    Unloadable,
    Warned,
)
from illustrious.registry import registered
from illustrious.types import ImageRequest

if TYPE_CHECKING:
    from illustrious.images.diffusion.loop import Loop
    from illustrious.images.diffusion.model import Model
    from illustrious.images.diffusion.stock import Stock

CAPACITY = 8
"""Jobs under way at a time: enough to fill the calls of the UNet, few enough to leave the rest to the queue."""


MOMENT = 0.02
"""Seconds to wait for a compiler, when there is nothing else to do, before looking at the inbox again."""


@registered("sdxl")
class SDXLEngine:
    """Draws with an SDXL checkpoint, or with the starter model when ``options.model`` is ``None``."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    def check(self, request: ImageRequest, library: Library) -> tuple[str, ...]:
        from illustrious.images.diffusion.check import check

        return check(request, library, self._options.max_pixels)

    def run(self, inbox: Inbox) -> Iterator[Event]:
        yield Loading(progress=0.0)
        try:
            from illustrious.images.diffusion.model import load
        except (ImportError, OSError) as error:  # OSError: a shared library of torch that Windows cannot load
            yield Unloadable(reason=f"PyTorch or diffusers cannot be imported ({error}). Install the studio again.")
            return
        try:
            model = yield from load(self._options)
        except Unavailable as error:
            yield Unloadable(reason=str(error))
            return
        device = str(model.placement.device)
        yield Ready(
            model=model.name,
            family="sdxl",
            device=device,
            backend=model.placement.backend,
            dtype=str(model.placement.dtype).removeprefix("torch."),
            capacity=CAPACITY,
            width=model.size[0],
            height=model.size[1],
            note=model.note,
            versions=versions(),
        )
        loop, stock = _loop(model, self._options)
        held = {model.name: device}
        del model  # from now on the stock alone says how long it stays in memory
        try:
            yield from _serve(loop, stock, inbox, held)
        finally:
            loop.close()


def _serve(loop: Loop, stock: Stock, inbox: Inbox, held: dict[str, str]) -> Iterator[Event]:
    """Commands first, then the next turn. ``held`` is what was told to be in memory.

    While a compiler is at work it is looked at even when nobody asks for anything: that it failed is told at once.
    """
    warnings: tuple[str, ...] = ()
    while True:
        compiling = stock.compiling if loop.is_idle else None
        if stock.held != held:
            held = stock.held
            yield Held(models=held)
        if stock.warnings != warnings:
            warnings = stock.warnings
            yield Warned(warnings=warnings)
        match inbox.get(wait=loop.is_idle and compiling is None):
            case Stop():
                return
            case Admit() as job:
                loop.admit(job)
            case Cancel(job_id=job_id):
                yield from loop.cancel(job_id)
            case None if compiling is not None:
                compiling.wait(MOMENT)
            case None:
                yield from loop.turn()


def _loop(model: Model, options: EngineOptions) -> tuple[Loop, Stock]:
    """Everything wired together: the models and files that requests name, and the memory they share."""
    from illustrious.images.diffusion.loop import Loop
    from illustrious.images.diffusion.placement import Memory
    from illustrious.images.diffusion.stock import Stock
    from illustrious.images.diffusion.warm_up import warm_up

    if options.warm_up:
        warm_up(model)
    memory = Memory(model.placement, options.memory_limit)
    own = None if options.model is None else Path(options.model)
    known = None if options.identities is None else Identities(Path(options.identities), write=False)
    library = Library(options.models_dirs, options.model, identities=known)
    stock = Stock(library, model, own, memory, with_previews=options.preview_every > 0)
    around = stock.surroundings(options.max_pixels)
    return Loop(stock.model_of, around, memory, stock.preview, options.preview_every), stock


def versions() -> dict[str, str]:
    """Of the libraries that decide what a pixel is."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
