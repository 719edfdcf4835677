"""How an image worker performs a job: from the job's JSON to a saved picture."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from illustrious import __version__
from illustrious.catalog.hashes import Hashes, shortened
from illustrious.catalog.kinds import Kind
from illustrious.catalog.library import Library
from illustrious.errors import InvalidRequest
from illustrious.gallery.store import Gallery
from illustrious.images import Step
from illustrious.images.process import ImageWorker
from illustrious.jobs import Job, Outcome, Report
from illustrious.types import ImageRequest, ImageResult

KIND = "image"


class Drawing:
    """A ``jobs.Performer``: one image worker, the gallery its pictures go to, and the hashes of what they are drawn
    with."""

    def __init__(
        self,
        worker: ImageWorker,
        gallery: Gallery,
        library: Library,
        hashes: Hashes,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._worker = worker
        self._gallery = gallery
        self._library = library
        self._hashes = hashes
        self._on_step = on_step

    @property
    def name(self) -> str:
        return self._worker.name

    @property
    def capacity(self) -> int:
        return self._worker.capacity

    async def perform(self, job: Job, report: Report) -> Outcome:
        """Draw and save. A job that is performed twice, because a process died in between, leaves its pictures once:
        their places are told by the job alone."""
        begin = time.monotonic()

        def told(step: Step) -> None:
            self._on_step()
            left = (time.monotonic() - begin) / step.step * (step.steps - step.step)
            report("step", {"step": step.step, "steps": step.steps, "eta_s": round(left, 3)})
            if step.preview is not None:
                report("preview", {"image": step.preview})

        results = await self._worker.draw(ImageRequest.model_validate(job.request), told, job.owner)
        ready = self._worker.ready
        environment: dict[str, Any] = {"studio": __version__}
        if ready is not None:
            environment |= {"device": ready.device, "dtype": ready.dtype, **ready.versions}
        images = []
        for number, result in enumerate([await self._with_hashes(result) for result in results]):
            saved = await self._gallery.save(
                result,
                "studio",
                image_id=f"{job.id}-{number}",
                created=job.created,
                job=job.id,
                parent=job.parent,
                owner=job.owner,
                environment=environment,
            )
            used = result.request
            images.append(
                {
                    "id": saved.id,
                    "url": saved.url,
                    "seed": used.seed,
                    "width": used.width,
                    "height": used.height,
                    "model": result.model,
                    "speed": used.speed,
                }
            )
        # What was known when the job came in is told again by the engine.
        warnings = dict.fromkeys((*job.warnings, *(warning for result in results for warning in result.warnings)))
        return Outcome(result={"images": images}, warnings=tuple(warnings))

    async def _with_hashes(self, result: ImageResult) -> ImageResult:
        """Told which files it was drawn with. A file is read when it is used first; drawing others goes on."""
        request = result.request
        loras = {lora.name: await self._hash("lora", lora.name) for lora in request.loras}
        return result.model_copy(
            update={
                "model_hash": await self._hash("checkpoint", request.model) if request.model else None,
                "lora_hashes": {name: value for name, value in loras.items() if value is not None},
            }
        )

    async def _hash(self, kind: Kind, name: str) -> str | None:
        try:
            entry = await asyncio.to_thread(self._library.find, kind, name)
        except InvalidRequest:  # taken away while it was drawn with
            return None
        found = await self._hashes.of(entry)
        return None if found is None else shortened(entry, found)
