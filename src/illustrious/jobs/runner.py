"""The door to the jobs of this server: it takes them in, gives them to performers, and tells how they end.

Nothing here is the truth about a job: the store is. The runner may be killed at any line; what it held is queued again
by the next one. It works on one event loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from illustrious.errors import InvalidRequest, StorageFailed, StudioError, Unavailable, WorkerDied
from illustrious.jobs import Failure, Job, Outcome, Performer, Submission
from illustrious.jobs.events import Event, EventLog, retell
from illustrious.jobs.store import JobStore

log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds after which another server may take over what this one held; renewed three times within."""

SWEEP_EVERY = 600.0

_Move = Callable[[], Awaitable[Job | None]]


@dataclass(eq=False, slots=True)
class _Run:
    """A job under way here."""

    job: Job
    performer: Performer
    performing: asyncio.Task[Outcome]
    had_company: bool
    is_stopped: bool = False
    whole: asyncio.Task[None] | None = None

    def stop(self) -> None:
        self.is_stopped = True
        self.performing.cancel()


class Runner:
    """Start it, submit to it, drain it.

    ``worker`` names this server to others on the same database, and must be the same after a restart: what it held
    before is then taken up at once. ``on_change`` hears of every job whose state was committed. ``poll`` is a safety
    net for what no signal tells: jobs that another server submitted or ended. All times in seconds.
    """

    def __init__(
        self,
        store: JobStore,
        events: EventLog,
        performers: Sequence[Performer],
        worker: str = "server",
        queue_limit: int | None = 1000,
        lease: float = LEASE,
        poll: float = 5.0,
        longest_retry: float = 10.0,
        on_change: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.store = store
        self.events = events
        self._performers = list(performers)
        self._worker = worker
        self._queue_limit = queue_limit
        self._lease = lease
        self._poll = poll
        self._longest_retry = longest_retry
        self._on_change = on_change
        self._runs: dict[str, _Run] = {}  # until their end is committed
        self._on_stage: dict[int, set[_Run]] = {id(performer): set() for performer in performers}
        self._waiting: dict[str, list[asyncio.Future[Job]]] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._serving: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    # --- the door ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Queue again what was running when the server ended, then serve. Raises ``StorageFailed``."""
        for job in await self.store.recover(self._worker, starting=True):
            self._announce(job)
        self._serving = asyncio.create_task(self._serve(), name="jobs")
        self._tending = asyncio.create_task(self._tend(), name="job leases")

    async def submit(self, submission: Submission) -> tuple[Job, bool]:
        """The job, durable now, and whether it is new. Raises as ``JobStore.submit``."""
        capacity = sum(performer.capacity for performer in self._performers)
        job, is_new = await self.store.submit(submission, self._queue_limit, max(1, capacity))
        if is_new:
            if not self.events.knows(job.id):  # else it was claimed already, and that is later news
                self._announce(job)
            self.wake()
        return job, is_new

    async def cancel(self, job_id: str) -> Job:
        """Cancel it if it is not over; one that runs stops soon. Raises ``NotFound``, ``StorageFailed``."""
        job = await self.store.cancel(job_id)
        run = self._runs.get(job_id)
        if job.cancel_requested and run is not None:
            run.stop()
        if job.is_over:
            self._announce(job)
        return job

    async def wait(self, job_id: str) -> Job:
        """The job once it is over. Raises ``NotFound``, ``StorageFailed``; ``Unavailable`` when this server closes
        before: the job is kept."""
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(ended)
        try:
            if not self.events.is_live(job_id):
                job = await self.store.get(job_id)
                if job.is_over:
                    return job
            if self._is_stopping:
                raise _closing()
            return await ended
        finally:
            waiting = self._waiting.get(job_id, [])
            if ended in waiting:
                waiting.remove(ended)
                if not waiting:
                    del self._waiting[job_id]

    async def follow(self, job_id: str, after: int | None = None) -> AsyncIterator[Event]:
        """The job's events: those since ``after`` that are still known, then those to come, until it is over.

        Raises ``NotFound``, ``StorageFailed``.
        """
        if not self.events.knows(job_id):
            job = await self.store.get(job_id)
            if job.is_over:
                for event in retell(job):
                    yield event
                return
            if not self.events.knows(job_id):
                self._announce(job)
        async for event in self.events.subscribe(job_id, after):
            yield event

    def wake(self) -> None:
        """Look at the queue now: something was submitted, or a performer has more room."""
        self._wake.set()

    async def drain(self, within: float) -> None:
        """Stop: begin nothing more, let what runs end ``within`` this time, queue the rest again. Draining once more
        with less time stops what runs then.

        With a database that cannot be written the rest stays marked as running, and is queued again at the next start.
        """
        self._is_stopping = True
        self.wake()
        if self._serving is not None:
            await self._serving
        if performing := [run.performing for run in self._runs.values()]:
            await asyncio.wait(performing, timeout=within)
        for run in self._runs.values():
            run.stop()
        if settling := [run.whole for run in self._runs.values() if run.whole is not None]:
            _, unsettled = await asyncio.wait(settling, timeout=max(within, 1.0))
            await _stop(*unsettled)
        if self._tending is not None:
            await _stop(self._tending)
        for ended in [future for waiting in self._waiting.values() for future in waiting]:
            if not ended.done():
                ended.set_exception(_closing())
        self.events.close()

    # --- giving jobs to performers -----------------------------------------------------------------------------

    async def _serve(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                await self._claim()
            except StorageFailed as error:
                log.error("No job can be begun: %s", error)
            await _wait_at_most(self._wake, self._poll)

    async def _claim(self) -> None:
        """Fill the performers, the least busy first. When it gets nothing there is nothing for the others: either the
        queue is empty, or its head must run alone and waits for the first to be idle."""
        while not self._is_stopping:
            free = [performer for performer in self._performers if self._room(performer) > 0]
            if not free:
                return
            performer = min(free, key=lambda performer: len(self._under_way(performer)))
            # One at a time where there are several, so that the load spreads.
            limit = self._room(performer) if len(free) == 1 else 1
            claimed = await self.store.claim(self._worker, self._lease, limit, idle=not self._under_way(performer))
            for job in claimed:
                self._begin(performer, job)
            if len(claimed) < limit:
                return

    def _under_way(self, performer: Performer) -> set[_Run]:
        return self._on_stage[id(performer)]

    def _room(self, performer: Performer) -> int:
        under_way = self._under_way(performer)
        if any(run.job.alone for run in under_way):
            return 0
        return performer.capacity - len(under_way)

    def _begin(self, performer: Performer, job: Job) -> None:
        company = self._under_way(performer)
        for other in company:
            other.had_company = True

        def report(name: Literal["step", "preview"], data: dict[str, Any]) -> None:
            if not run.performing.done():
                self.events.report(job.id, name, data)

        if earlier := self._runs.get(job.id):
            earlier.stop()  # it was taken from this server and came back before that was noticed
        performing = asyncio.ensure_future(performer.perform(job, report))
        run = _Run(job, performer, performing, had_company=bool(company))
        self._runs[job.id] = run
        company.add(run)
        self._announce(job)
        run.whole = asyncio.create_task(self._see_through(run), name=f"job {job.id}")

    async def _see_through(self, run: _Run) -> None:
        """Wait for the performer, then commit how it ended. A job leaves ``_runs`` only when that is done."""
        await asyncio.wait({run.performing})
        self._under_way(run.performer).discard(run)
        self.wake()  # there is room for another
        job = await self._insist(_how_it_ended(self.store, run), run.job)
        if self._runs.get(run.job.id) is run:  # else it has been begun again
            del self._runs[run.job.id]
        if job is None:
            log.warning("Job %s was taken from this server; what it made of it is dropped.", run.job.id)
            return
        self._announce(job)
        self.wake()  # it may be queued again

    async def _insist(self, move: _Move, job: Job) -> Job | None:
        """Commit the end of a job, however long the database refuses: the outcome is safe here meanwhile."""
        delay = 0.1
        while True:
            try:
                return await move()
            except StorageFailed as error:
                log.error("The end of job %s is not written yet: %s", job.id, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._longest_retry)

    # --- tending -----------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Hold the leases, and notice what happened elsewhere."""
        loop = asyncio.get_running_loop()
        next_heartbeat = next_sweep = loop.time()
        while True:
            try:
                if loop.time() >= next_heartbeat:
                    await self._hold()
                    next_heartbeat = loop.time() + self._lease / 3
                if loop.time() >= next_sweep:
                    await self.store.sweep()
                    next_sweep = loop.time() + SWEEP_EVERY
                await self._look_elsewhere()
            except StorageFailed as error:
                log.error("The jobs cannot be tended: %s", error)
            await asyncio.sleep(min(self._poll, self._lease / 3))

    async def _hold(self) -> None:
        held = {job.id: job for job in await self.store.heartbeat(self._worker, self._lease)}
        for job_id, run in self._runs.items():
            job = held.get(job_id)
            if job is None or job.attempts != run.job.attempts or job.cancel_requested:
                run.stop()  # taken by another server, or cancelled through one
        for job_id in held.keys() - self._runs.keys():  # a claim that was committed though its answer was lost
            await self.store.release(held[job_id])
        for job in await self.store.recover(self._worker, starting=False):
            self._announce(job)

    async def _look_elsewhere(self) -> None:
        self.events.forget_old()
        for job in await self.store.ended({*self.events.live(), *self._waiting} - self._runs.keys()):
            self._announce(job)

    def _announce(self, job: Job) -> None:
        """To be called with what was committed, in that order."""
        self.events.announce(job)
        self._on_change(job)
        if job.is_over:
            for ended in self._waiting.pop(job.id, []):
                if not ended.done():
                    ended.set_result(job)


def _how_it_ended(store: JobStore, run: _Run) -> _Move:
    """The move that a finished performance calls for. This is where whatever a performer raises becomes a failed job,
    so that no job can stop the others."""
    job = run.job
    if run.performing.cancelled() and run.is_stopped:
        return partial(store.release, job)  # which is its end, if cancelling it was asked for
    error = asyncio.CancelledError() if run.performing.cancelled() else run.performing.exception()
    match error:
        case None:
            outcome = run.performing.result()
            return partial(store.finish, job, outcome.result, outcome.warnings)
        case WorkerDied():
            return partial(store.worker_died, job, ran_alone=not run.had_company)
        case StudioError():
            field = error.field if isinstance(error, InvalidRequest) else None
            return partial(store.fail, job, Failure(kind=type(error).__name__, message=str(error), field=field))
        case _:
            log.error("Job %s failed unexpectedly.", job.id, exc_info=error)
            message = "Something unexpected went wrong; the log of the server says what. Submit it again, or report it."
            return partial(store.fail, job, Failure(kind="InternalError", message=message))


def _closing() -> Unavailable:
    return Unavailable("The studio is closing. The job is kept: ask for it again once the studio runs.")


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
