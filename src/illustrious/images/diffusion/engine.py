"""The engine's face: commands in, events out. Torch is imported when it runs, not before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from illustrious.errors import EngineFailed, InvalidRequest, Unavailable
from illustrious.images import (
    Admit,
    Cancel,
    Done,
    EngineOptions,
    Event,
    Failed,
    Inbox,
    Loading,
    Ready,
    Step,
    Stop,
    Unloadable,
)
from illustrious.registry import registered
from illustrious.types import ImageResult

if TYPE_CHECKING:
    from illustrious.images.diffusion.model import Model


@registered("sdxl")
class SDXLEngine:
    """Draws with an SDXL checkpoint, or with the starter model when ``options.model`` is ``None``."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

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
        yield Ready(
            model=model.name,
            family="sdxl",
            device=str(model.placement.device),
            backend=model.placement.backend,
            dtype=str(model.placement.dtype).removeprefix("torch."),
            width=model.size[0],
            height=model.size[1],
            note=model.note,
            versions=versions(),
        )
        yield from self._serve(model, inbox)

    def _serve(self, model: Model, inbox: Inbox) -> Iterator[Event]:
        """One turn at a time: the next command if there is one, else one step of the picture under way."""
        waiting: deque[Admit] = deque()
        drawing: tuple[str, Iterator[Event]] | None = None
        while True:
            match inbox.get(wait=not waiting and drawing is None):
                case Stop():
                    return
                case Admit() as job:
                    waiting.append(job)
                case Cancel(job_id=job_id):
                    if drawing is not None and drawing[0] == job_id:
                        drawing = None
                        yield Failed(job_id=job_id, error="cancelled", message="Cancelled while it was drawn.")
                    for job in [job for job in waiting if job.job_id == job_id]:
                        waiting.remove(job)
                        yield Failed(job_id=job_id, error="cancelled", message="Cancelled before it was drawn.")
                case None:
                    if drawing is None:
                        job = waiting.popleft()
                        drawing = job.job_id, self._draw(model, job)
                    event = next(drawing[1], None)
                    if event is None:
                        drawing = None
                    else:
                        yield event

    def _draw(self, model: Model, job: Admit) -> Iterator[Event]:
        from illustrious.images.diffusion.draw import draw
        from illustrious.images.diffusion.placement import free_memory, memory_ran_out

        try:
            for news in draw(model, job.request, self._options.max_pixels):
                if isinstance(news, ImageResult):
                    yield Done(job_id=job.job_id, results=(news,))
                else:
                    yield Step(job_id=job.job_id, step=news, steps=job.request.steps)
        except InvalidRequest as error:
            yield Failed(job_id=job.job_id, error="invalid", message=str(error))
        except EngineFailed as error:
            yield Failed(job_id=job.job_id, error="failed", message=str(error))
        except RuntimeError as error:
            if not memory_ran_out(error):
                raise
            free_memory(model.placement)
            yield Failed(
                job_id=job.job_id,
                error="failed",
                message=f"The memory of {model.placement.device} ran out. Ask for a smaller picture.",
            )


def versions() -> dict[str, str]:
    """Of the libraries that decide what a pixel is."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
