"""A picture computed from the request alone: for tests and for work on a user interface."""

import hashlib
import io
import json
from collections.abc import Generator, Iterator

from PIL import Image

from illustrious.images import Admit, Cancel, Done, EngineOptions, Event, Failed, Inbox, Loading, Ready, Step, Stop
from illustrious.registry import registered
from illustrious.types import ImageRequest, ImageResult, singles, told

NATIVE_SIZE = 64

LEAVES_THE_PICTURE = ("exact", "prompt_syntax", "count")
"""Fields that say how to draw, and not what."""


@registered("fake")
class FakeEngine:
    """Takes every field seriously: another prompt, step count, guidance or seed gives another picture."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

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
            yield Step(job_id=job.job_id, step=step, steps=steps)
        yield Done(job_id=job.job_id, results=draw_all(job.request))
        return True


def draw_all(request: ImageRequest) -> tuple[ImageResult, ...]:
    return tuple(draw(single) for single in singles(request))


def draw(request: ImageRequest) -> ImageResult:
    """The picture of a request: an 8×8 pattern of colours, drawn from its digest, enlarged to the size asked for."""
    width, height = request.width or NATIVE_SIZE, request.height or NATIVE_SIZE
    model = request.model or "fake"
    used = request.model_copy(update={"width": width, "height": height, "model": model, "sampler": "none"})
    matters = {name: value for name, value in told(used).items() if name not in LEAVES_THE_PICTURE and value != ""}
    pattern = hashlib.shake_256(json.dumps(matters).encode()).digest(8 * 8 * 3)
    image = Image.frombytes("RGB", (8, 8), pattern).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageResult(image=buffer.getvalue(), request=used, model=model, sampler="none")
