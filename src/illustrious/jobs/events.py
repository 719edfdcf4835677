"""What happens to jobs, as it happens, in memory: only what is committed is news, and steps and previews.

A log keeps what tells the whole story to somebody who comes late: every change of state, the result or the error,
but of steps and previews the latest alone. A subscriber keeps nothing but the id of the event it saw last and reads
the log from there, so a slow one misses steps and holds no memory.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from illustrious.jobs import TERMINAL, Job

EventName = Literal["state", "step", "preview", "result", "error"]

LINGER = 300.0
"""Seconds the log of a job is kept after its end."""

MAX_ENDED = 10_000
"""Logs of ended jobs that are kept at most."""

MAX_PREVIEW_BYTES = 64_000_000
"""All previews together; the oldest go first."""

MAX_CHANGES = 32
"""Changes of state that are kept of one job; more come only from a worker that keeps dying."""


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` grows within a job, also across a restart of the server. ``data`` is JSON, but for the bytes of
    previews."""

    id: int
    name: EventName
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.name == "state" and self.data["state"] in TERMINAL


@dataclass(slots=True)
class _Log:
    last_id: int
    changes: deque[Event] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))
    latest: dict[EventName, Event] = field(default_factory=dict)  # step, preview
    is_over: bool = False
    subscribers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, event_id: int) -> list[Event]:
        known = [event for event in (*self.changes, *self.latest.values()) if event.id > event_id]
        return sorted(known, key=lambda event: event.id)


class EventLog:
    """The events of all jobs of this server. Use it on one event loop; ``now`` in seconds since 1970."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        linger: float = LINGER,
        max_ended: int = MAX_ENDED,
        max_preview_bytes: int = MAX_PREVIEW_BYTES,
    ) -> None:
        self._now = now
        self._linger = linger
        self._max_ended = max_ended
        self._max_preview_bytes = max_preview_bytes
        self._logs: dict[str, _Log] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()  # job → when, oldest first
        self._previews: OrderedDict[str, int] = OrderedDict()  # job → bytes of its preview, oldest first
        self._preview_bytes = 0
        self._is_closed = False

    def knows(self, job_id: str) -> bool:
        """Whether anything was published about this job that is still kept."""
        log = self._logs.get(job_id)
        return log is not None and bool(log.changes)

    def is_live(self, job_id: str) -> bool:
        """Whether it is known here and, as far as is known here, not over."""
        log = self._logs.get(job_id)
        return log is not None and bool(log.changes) and not log.is_over

    def latest(self, job_id: str, name: Literal["step", "preview"]) -> Event | None:
        """The last step or preview of the attempt under way."""
        log = self._logs.get(job_id)
        return None if log is None else log.latest.get(name)

    def live(self) -> set[str]:
        return {job_id for job_id in self._logs if self.is_live(job_id)}

    def announce(self, job: Job) -> None:
        """Tell the state a job is in now, after its result or error when it has one."""
        log = self._log(job.id)
        if log.is_over:
            return
        for name, data in _story(job):
            self._append(log, name, data)
        log.latest.clear()  # steps belong to the attempt, and the attempt is over
        self._forget_preview(job.id)
        if job.is_over:
            log.is_over = True
            self._ended[job.id] = self._now()
        self.forget_old()

    def report(self, job_id: str, name: Literal["step", "preview"], data: dict[str, Any]) -> None:
        """Tell how a job gets on; nothing once it is over."""
        log = self._logs.get(job_id)
        if log is None or log.is_over:
            return
        self._append(log, name, data)
        if name == "preview":
            self._forget_preview(job_id, keep=True)
            size = sum(len(value) for value in data.values() if isinstance(value, bytes | str))
            self._previews[job_id] = size
            self._preview_bytes += size
            while self._preview_bytes > self._max_preview_bytes:
                self._forget_preview(next(iter(self._previews)))

    async def subscribe(self, job_id: str, after: int | None = None) -> AsyncIterator[Event]:
        """What is known since the event ``after``, and then what happens, until the job is over or this is closed."""
        log = self._log(job_id)
        log.subscribers += 1
        seen = after or 0
        try:
            while True:
                changed = log.changed
                for event in log.after(seen):
                    seen = event.id
                    yield event
                if self._is_closed or (log.is_over and not log.after(seen)):
                    return
                await changed.wait()
        finally:
            log.subscribers -= 1
            if not log.changes and not log.subscribers and self._logs.get(job_id) is log:
                del self._logs[job_id]

    def close(self) -> None:
        """Let all who follow go: nothing happens here any more. They may ask again after a restart."""
        self._is_closed = True
        for log in self._logs.values():
            _wake(log)

    def forget_old(self) -> None:
        """Drop the logs of jobs that ended too long ago, or that are too many."""
        while self._ended:
            job_id, ended = next(iter(self._ended.items()))
            if ended >= self._now() - self._linger and len(self._ended) <= self._max_ended:
                return
            del self._ended[job_id]
            self._logs.pop(job_id, None)

    def _log(self, job_id: str) -> _Log:
        log = self._logs.get(job_id)
        if log is None:
            # Milliseconds: beyond every id given before a restart, and exact in JavaScript.
            log = self._logs[job_id] = _Log(last_id=int(self._now() * 1000))
        return log

    def _append(self, log: _Log, name: EventName, data: dict[str, Any]) -> None:
        log.last_id += 1
        event = Event(log.last_id, name, data)
        if name in ("step", "preview"):
            log.latest[name] = event
        else:
            log.changes.append(event)
        _wake(log)

    def _forget_preview(self, job_id: str, keep: bool = False) -> None:
        self._preview_bytes -= self._previews.pop(job_id, 0)
        if not keep and job_id in self._logs:
            self._logs[job_id].latest.pop("preview", None)


def _wake(log: _Log) -> None:
    changed, log.changed = log.changed, asyncio.Event()
    changed.set()


def _story(job: Job) -> list[tuple[EventName, dict[str, Any]]]:
    story: list[tuple[EventName, dict[str, Any]]] = []
    if job.state == "succeeded" and job.result is not None:
        story.append(("result", {**job.result, "warnings": list(job.warnings)}))
    elif job.state == "failed" and job.error is not None:
        story.append(("error", job.error.model_dump()))
    story.append(("state", {"state": job.state, "attempts": job.attempts}))
    return story


def retell(job: Job) -> list[Event]:
    """The events of a job whose log is gone, from its row: where it stands, and its result or error."""
    first = int((job.finished or job.started or job.created) * 1000)
    return [Event(first + number, name, data) for number, (name, data) in enumerate(_story(job))]
