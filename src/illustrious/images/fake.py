"""A picture computed from the request alone: for tests and for work on a user interface."""

import hashlib
import io
import json
from collections.abc import Generator, Iterator
from typing import Literal

from PIL import Image

from illustrious.catalog.library import Library
from illustrious.images import Admit, Cancel, Done, EngineOptions, Event, Failed, Inbox, Loading, Ready, Step, Stop
from illustrious.registry import registered
from illustrious.types import ImageRequest, ImageResult, singles, told

NATIVE_SIZE = 64

LEAVES_THE_PICTURE = ("speed", "exact", "prompt_syntax", "count")
"""Fields that say how to draw, and not what."""


@registered("fake")
class FakeEngine:
    """Takes every field seriously: another prompt, step count, guidance or seed gives another picture."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    def check(self, request: ImageRequest, library: Library) -> tuple[str, ...]:
        """Whatever is asked for, it draws."""
        return ()

    def run(self, inbox: Inbox) -> Iterator[Event]:
        yield Loading(progress=1.0)
        yield Ready(
            model="fake",
            family="fake",
            device="cpu",
            backend="cpu",
            dtype="uint8",
            width=NATIVE_SIZE,
            height=NATIVE_SIZE,
        )
        waiting: list[Admit] = []
        while True:
            command = inbox.get(wait=not waiting)
            if isinstance(command, Stop):
                return
            if isinstance(command, Admit):
                waiting.append(command)
            elif isinstance(command, Cancel):
                for job in [job for job in waiting if job.job_id == command.job_id]:
                    waiting.remove(job)
                    yield Failed(job_id=job.job_id, error="cancelled", message="Cancelled before it was drawn.")
            elif waiting and not (yield from self._draw(waiting.pop(0), inbox, waiting)):
                return

    def _draw(self, job: Admit, inbox: Inbox, waiting: list[Admit]) -> Generator[Event, None, bool]:
        """The pictures of one job. Returns False when ``Stop`` came meanwhile; others admitted join ``waiting``."""
        steps = job.request.steps * job.request.count
        for step in range(1, steps + 1):
            while (command := inbox.get(wait=False)) is not None:
                if isinstance(command, Stop):
                    return False
                if isinstance(command, Admit):
                    waiting.append(command)
                elif command.job_id == job.job_id:
                    yield Failed(job_id=job.job_id, error="cancelled", message=f"Cancelled before step {step}.")
                    return True
                else:
                    for other in [other for other in waiting if other.job_id == command.job_id]:
                        waiting.remove(other)
                        yield Failed(job_id=other.job_id, error="cancelled", message="Cancelled before it was drawn.")
            every = self._options.preview_every
            preview = file(pattern(job.request), "WEBP") if every and step % every == 0 else None
            yield Step(job_id=job.job_id, step=step, steps=steps, preview=preview)
        yield Done(job_id=job.job_id, results=draw_all(job.request))
        return True


def draw_all(request: ImageRequest) -> tuple[ImageResult, ...]:
    return tuple(draw(single) for single in singles(request))


def draw(request: ImageRequest) -> ImageResult:
    """The picture of a request: its pattern, enlarged to the size asked for."""
    used = _as_drawn(request)
    assert used.width and used.height and used.model
    image = pattern(request).resize((used.width, used.height), Image.Resampling.NEAREST)
    return ImageResult(image=file(image, "PNG"), request=used, model=used.model, sampler="none")


def pattern(request: ImageRequest) -> Image.Image:
    """8×8 colours, drawn from the digest of the request."""
    fields = told(_as_drawn(request)).items()
    matters = {name: value for name, value in fields if name not in LEAVES_THE_PICTURE and value != ""}
    return Image.frombytes("RGB", (8, 8), hashlib.shake_256(json.dumps(matters).encode()).digest(8 * 8 * 3))


def file(image: Image.Image, format: Literal["PNG", "WEBP"]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def _as_drawn(request: ImageRequest) -> ImageRequest:
    size = {"width": request.width or NATIVE_SIZE, "height": request.height or NATIVE_SIZE}
    return request.model_copy(update={**size, "model": request.model or "fake", "sampler": "none"})
