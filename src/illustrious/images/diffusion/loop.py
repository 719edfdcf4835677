"""The running batch: pictures of many jobs, a step at a time.

Between any two calls of the UNet pictures come in, leave, or are dropped. Whose turn it is: of the time two thirds go
to the picture with the fewest turns left, so that a short one does not wait behind long ones, and a third to the oldest
of the caller who has waited longest, so that nobody waits for ever. Others of its group join the call, as far as memory
allows, as far as it saves time (``pace.py``), and, for exact pictures, as far as that changes no bit.

What needs no UNet (the autoencoder, files) is done in one thread beside.
"""

import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from illustrious.errors import EngineFailed, InvalidRequest, StudioError, TooLarge
from illustrious.images import Admit, Done, Event, Failed, Step
from illustrious.images.diffusion.denoise import Picture, predict
from illustrious.images.diffusion.draw import Aside, Surroundings, Work, draw, memory_message, total_steps
from illustrious.images.diffusion.exact import Sharing, tried_up_to
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.pace import Pace
from illustrious.images.diffusion.placement import Memory, memory_ran_out
from illustrious.types import ImageRequest, ImageResult, singles

AT_A_TIME = 8
"""Pictures of one job under way together."""

NEAR = 2
"""Pictures with at most so many times as many turns left are of about one length: to each the others are as near."""

PATIENCE = 0.005
"""Seconds to wait for what is done aside, when there is nothing else to do, before looking at the inbox again."""

ModelOf = Callable[[ImageRequest, Collection[Model]], Model | None]
"""The model of a request; ``None`` when there is no room for it beside those at work. Raises ``StudioError``."""
Preview = Callable[[Model, Picture], bytes | None]


@dataclass(eq=False)
class _Job:
    """``requests`` are those not yet begun, with their places among the ``results``."""

    id: str
    caller: str
    number: int
    steps: int
    requests: list[tuple[int, ImageRequest]]
    results: list[ImageResult | None]
    step: int = 0
    strands: "list[_Strand]" = field(default_factory=list)


@dataclass(eq=False)
class _Strand:
    """One picture of a job. ``picture`` is what it waits for to be drawn; ``None``: it waits for something else."""

    job: _Job
    place: int
    model: Model
    work: Work
    picture: Picture | None = None
    is_dropped: bool = False


class Loop:
    """``admit``, ``cancel``, and take ``turn`` after ``turn``; ``close`` it at the end.

    Every ``preview_every`` steps a picture's ``preview`` is told, 0 for never. ``clock`` tells seconds where the
    device has no clock of its own.
    """

    def __init__(
        self,
        model_of: ModelOf,
        around: Surroundings,
        memory: Memory,
        preview: Preview,
        preview_every: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sharing = Sharing()
        self._pace = Pace(memory.device, clock)
        self._model_of = model_of
        self._around = around
        self._memory = memory
        self._preview = preview
        self._preview_every = preview_every
        self._jobs: dict[str, _Job] = {}
        self._served: dict[str, int] = {}
        self._admitted = 0
        self._turns = 0
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._done_aside: SimpleQueue[tuple[_Strand, Future[Any]]] = SimpleQueue()

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    def admit(self, admitted: Admit) -> None:
        requests = singles(admitted.request)
        self._admitted += 1
        self._jobs[admitted.job_id] = _Job(
            id=admitted.job_id,
            caller=admitted.caller,
            number=self._admitted,
            steps=sum(map(total_steps, requests)),
            requests=list(enumerate(requests)),
            results=[None] * len(requests),
        )

    def cancel(self, job_id: str) -> Iterator[Failed]:
        job = self._jobs.get(job_id)
        if job is not None:
            when = f"after step {job.step} of {job.steps}" if job.strands else "before it was drawn"
            yield self._failed(job, "cancelled", f"Cancelled {when}.")

    def close(self) -> None:
        for job in list(self._jobs.values()):
            self._drop(job)
        self._beside.shutdown(cancel_futures=True)

    def turn(self) -> Iterator[Event]:
        """What there is to do now: take in what was done aside, begin what was admitted, one call of the UNet."""
        yield from self._take_in(wait=not self._has_work())
        yield from self._begin_all()
        drawing = self._drawing()
        if drawing:
            yield from self._call(*self._chosen(drawing))

    # --- whose turn it is --------------------------------------------------------------------------------------

    def _drawing(self) -> list[_Strand]:
        return [strand for job in self._jobs.values() for strand in job.strands if strand.picture is not None]

    def _has_work(self) -> bool:
        """Something other than waiting for what is done aside. What waits for room for a model waits for that, too."""
        return any(self._drawing()) or not any(job.strands for job in self._jobs.values())

    @staticmethod
    def _has_more(job: _Job) -> bool:
        return bool(job.requests) and len(job.strands) < AT_A_TIME

    def _chosen(self, drawing: Sequence[_Strand]) -> tuple[list[_Strand], _Strand | None]:
        """The one whose turn it is and then those that could join it, in the order of what they have left; and the one
        who is kept waiting for the shortest, if there is one."""
        by_length = sorted(drawing, key=lambda strand: (_left(strand), strand.job.number, strand.place))
        shortest = by_length[0]
        others = [strand for strand in drawing if strand.job.caller != shortest.job.caller] or drawing
        caller = min((strand.job.caller for strand in others), key=lambda caller: self._served.get(caller, 0))
        own = [strand for strand in others if strand.job.caller == caller]
        oldest = min(own, key=lambda strand: (strand.job.number, strand.place))
        waiting = None if oldest is shortest else oldest
        first = waiting if waiting is not None and self._pace.is_due else shortest
        group = _group(first)
        return [first, *(strand for strand in by_length if strand is not first and _group(strand) == group)], waiting

    # --- one call of the UNet ----------------------------------------------------------------------------------

    def _call(self, strands: Sequence[_Strand], waiting: _Strand | None) -> Iterator[Event]:
        by_picture = {strand.picture: strand for strand in strands if strand.picture is not None}
        try:
            answers = self._answers(strands[0].model, list(by_picture), waiting.picture if waiting else None)
        except EngineFailed as error:
            yield self._failed(strands[0].job, "failed", str(error))
            return
        self._turns += 1
        self._served.update((by_picture[picture].job.caller, self._turns) for picture, _ in answers)
        for picture, answer in answers:
            strand = by_picture[picture]
            if strand.is_dropped:  # its job failed while this call's other answers were taken in
                continue
            before = picture.step
            with torch.inference_mode():
                picture.advance(answer)
            if picture.step > before:
                yield self._stepped(strand, picture)
            if picture.done:
                strand.picture = None
                yield from self._go_on(strand, partial(strand.work.send, None))

    def _answers(
        self, model: Model, pictures: Sequence[Picture], waiting: Picture | None
    ) -> Sequence[tuple[Picture, Tensor]]:
        """The UNet's answers for the first, and for others as far as there is room and it pays. Raises
        ``EngineFailed``."""
        first = pictures[0]
        measured = partial(self._measured, model, waiting)
        while True:
            fitting = pictures[: self._memory.room(first.group)]
            if first.exact:
                fitting = self.sharing.able(fitting)
            near = sum(picture.left <= NEAR * first.left for picture in fitting)
            if first.exact:
                near = tried_up_to(near)
            together = fitting[: self._pace.together(_kind(model, first), near, len(fitting) - near)]
            try:
                with torch.inference_mode(), first.worn():
                    if first.exact:
                        return self.sharing.predict(measured, together)
                    return list(zip(together, measured(together), strict=True))
            except RuntimeError as error:
                if not memory_ran_out(error):
                    raise
                self._memory.ran_out(first.group, len(together))
                # After what is done aside, and with this loop waiting: no part may leave under another picture.
                if len(together) == 1 and not self._beside.submit(model.make_room).result():
                    raise EngineFailed(memory_message(model)) from error

    def _measured(self, model: Model, waiting: Picture | None, pictures: Sequence[Picture]) -> list[Tensor]:
        first, count = pictures[0], len(pictures)
        theirs = None if waiting is None or (waiting in pictures and waiting is not first) else waiting is first
        with self._memory.measuring(first.group, count), self._pace.timing(_kind(model, first), count, theirs):
            return predict(model.unet, pictures)

    def _stepped(self, strand: _Strand, picture: Picture) -> Step:
        job = strand.job
        job.step += 1
        preview = None
        if self._preview_every and picture.step % self._preview_every == 0 and not picture.done:
            preview = self._preview(strand.model, picture)
        return Step(job_id=job.id, step=job.step, steps=job.steps, preview=preview)

    # --- strands -----------------------------------------------------------------------------------------------

    def _begin_all(self) -> Iterator[Event]:
        """In the order they came: whoever waits for room for a model is not overtaken."""
        for job in list(self._jobs.values()):
            while job.id in self._jobs and self._has_more(job):
                place, request = job.requests[0]
                busy = {strand.model for other in self._jobs.values() for strand in other.strands}
                try:
                    model = self._model_of(request, busy)
                except StudioError as error:
                    yield self._refused(job, error)
                    return
                if model is None:
                    return
                del job.requests[0]
                yield from self._begin(job, place, request, model)

    def _begin(self, job: _Job, place: int, request: ImageRequest, model: Model) -> Iterator[Event]:
        strand = _Strand(job, place, model, draw(model, request, self._around))
        job.strands.append(strand)
        yield from self._go_on(strand, partial(strand.work.send, None))

    def _take_in(self, wait: bool) -> Iterator[Event]:
        """What was done aside since. With ``wait``, give it a moment."""
        while True:
            try:
                strand, future = self._done_aside.get(timeout=PATIENCE) if wait else self._done_aside.get_nowait()
            except Empty:
                return
            wait = False
            if not strand.is_dropped:
                error = future.exception()
                go_on = partial(strand.work.throw, error) if error else partial(strand.work.send, future.result())
                yield from self._go_on(strand, go_on)

    def _go_on(self, strand: _Strand, go_on: Callable[[], Picture | Aside]) -> Iterator[Event]:
        """Let the strand work on until it waits for something again."""
        while True:
            try:
                wish = go_on()
            except StopIteration as end:
                yield from self._finished(strand, end.value)
                return
            except StudioError as error:
                yield self._refused(strand.job, error)
                return
            except RuntimeError as error:
                if not memory_ran_out(error):
                    raise
                yield self._failed(strand.job, "failed", memory_message(strand.model))
                return
            if isinstance(wish, Aside):
                future = self._beside.submit(wish.work)
                if wish.alone:
                    go_on = partial(strand.work.send, future.result())
                    continue
                future.add_done_callback(lambda done: self._done_aside.put((strand, done)))
                return
            if not wish.done:
                strand.picture = wish
                return
            go_on = partial(strand.work.send, None)  # a pass without a step

    def _finished(self, strand: _Strand, result: ImageResult) -> Iterator[Event]:
        job = strand.job
        job.strands.remove(strand)
        job.results[strand.place] = result
        if not job.strands and not job.requests:
            del self._jobs[job.id]
            yield Done(job_id=job.id, results=tuple(result for result in job.results if result is not None))

    def _refused(self, job: _Job, error: StudioError) -> Failed:
        field = error.field if isinstance(error, InvalidRequest) else None
        kind = "invalid" if isinstance(error, InvalidRequest | TooLarge) else "failed"
        return self._failed(job, kind, str(error), field)

    def _failed(self, job: _Job, kind: Any, message: str, field: str | None = None) -> Failed:
        self._drop(job)
        return Failed(job_id=job.id, error=kind, message=message, field=field)

    def _drop(self, job: _Job) -> None:
        del self._jobs[job.id]
        for strand in job.strands:
            strand.is_dropped = True
            strand.picture = None
            strand.work.close()


def _left(strand: _Strand) -> int:
    return strand.picture.left if strand.picture is not None else 0


def _kind(model: Model, picture: Picture) -> Hashable:
    """Calls that take equally long: a graph that became ready makes others of them."""
    return picture.group, picture.shape, model.compiled.shapes if model.compiled is not None else 0


def _group(strand: _Strand) -> Hashable:
    return strand.picture.group if strand.picture is not None else None
