"""Durable jobs: accepted once, never lost, served in turn. What a job does is its performer's business.

A job is a record and a few legal moves. ``store.py`` makes the moves, each one conditional UPDATE; ``runner.py`` says
when; ``events.py`` tells whoever listens.

    queued ──► running ──► succeeded | failed
      │  ▲        │ │
      │  └────────┘ └────► cancelled        back to queued: its worker or its server died, or is closing
      └──────────────────► cancelled
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from illustrious.types import Noun

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Priority = Literal["interactive", "batch"]

TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
"""The states no move leads out of."""


class Failure(Noun):
    """Why a job failed: ``kind`` names the error's class, ``message`` is for a person, ``field`` names the part of the
    request that is wrong."""

    kind: str
    message: str
    field: str | None = None


class Submission(Noun):
    """A job to be. ``request`` is JSON and determines the job; ``owner`` is who shares a place in the queue and a
    space of idempotency keys.

    ``fingerprint`` tells two bodies sent with one key apart. Unset, it is made from ``kind`` and ``request``; a caller
    who adds to what was sent (a drawn seed) makes it from what was sent. ``parent`` is what this one repeats: a job, or
    what a job made. ``request_id`` names the call that asked for it, for the log. ``warnings``: what its caller should
    know already.
    """

    kind: str
    request: dict[str, Any]
    owner: str = ""
    priority: Priority = "interactive"
    idempotency_key: str | None = None
    fingerprint: str | None = None
    parent: str | None = None
    request_id: str | None = None
    warnings: tuple[str, ...] = ()


class Job(Noun):
    """A job as it was committed. Times in seconds since 1970, UTC; ids sort by time of submission.

    ``attempts`` is how often it was begun, ``deaths`` how often its worker died while it ran with no other beside it.
    ``alone``: it must run so from now on. ``cancel_requested``: it runs still, and will end cancelled.
    """

    id: str
    kind: str
    state: State
    request: dict[str, Any]
    owner: str
    priority: Priority
    attempts: int = 0
    deaths: int = 0
    alone: bool = False
    cancel_requested: bool = False
    created: float
    started: float | None = None
    finished: float | None = None
    result: dict[str, Any] | None = None
    error: Failure | None = None
    warnings: tuple[str, ...] = ()
    parent: str | None = None
    idempotency_key: str | None = None
    request_id: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL


class Outcome(Noun):
    """What a performed job gives: its result, as JSON, and what its caller should know about it."""

    result: dict[str, Any]
    warnings: tuple[str, ...] = ()


Report = Callable[[Literal["step", "preview"], dict[str, Any]], None]
"""Tells how a job under way gets on. To be called on the runner's event loop; costs next to nothing."""


class Performer(Protocol):
    """Something that does jobs: a worker process, seen from here."""

    @property
    def name(self) -> str:
        """For the log."""

    @property
    def capacity(self) -> int:
        """How many jobs it takes at a time now; 0 while it can take none."""

    async def perform(self, job: Job, report: Report) -> Outcome:
        """Do it. Called for several jobs at a time; cancelling the call cancels the job and frees what it holds.

        Raises ``WorkerDied`` when the worker ended under it, another ``StudioError`` to fail the job.
        """
