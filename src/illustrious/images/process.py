"""An image engine in a supervised child process.

The child runs the engine's generator; the parent admits pictures, follows their events and starts a new child when
one dies. Whoever waits for a picture under way then hears ``WorkerDied``: trying again is for the owner of the job,
who knows how often that was done.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

from pydantic import TypeAdapter

from illustrious.catalog.library import Library
from illustrious.errors import Cancelled, EngineFailed, InvalidRequest, StudioError, Unavailable, WorkerDied
from illustrious.images import (
    Admit,
    Cancel,
    Command,
    Done,
    EngineOptions,
    Event,
    Failed,
    Held,
    ImageEngine,
    Loading,
    Ready,
    Step,
    Unloadable,
    Warned,
)
from illustrious.process import Child, Memory, Message, MessageInbox
from illustrious.registry import find
from illustrious.types import BackendStatus, ImageRequest, ImageResult

RESTARTS_BEFORE_READY = 3
"""An engine that dies this often in a row before it is ready is given up: its model cannot be loaded here."""

SILENCE = 60.0
"""Seconds without a heartbeat after which a child is taken for hung, and killed."""

STUCK_STEP = 900.0
"""Seconds one step may take: the slowest processor draws a full-size picture's step in a few minutes."""

State = Literal["stopped", "loading", "idle", "drawing", "restarting", "unavailable"]

OnStep = Callable[[Step], None]

_commands: TypeAdapter[Command] = TypeAdapter(Command)
_events: TypeAdapter[Event] = TypeAdapter(Event)


def encode(event: Event) -> Message:
    """JSON for everything but pictures, which travel as bytes beside it."""
    match event:
        case Done():
            body = event.model_dump(mode="json", exclude={"results": {"__all__": {"image"}}})
            return body, [result.image for result in event.results]
        case Step(preview=preview) if preview is not None:
            return event.model_dump(mode="json", exclude={"preview"}), [preview]
        case _:
            return event.model_dump(mode="json"), []


def decode(message: Message) -> Event:
    body, blobs = message
    if body["kind"] == "done":
        results = [{**result, "image": blob} for result, blob in zip(body["results"], blobs, strict=True)]
        body = {**body, "results": results}
    elif body["kind"] == "step" and blobs:
        body = {**body, "preview": blobs[0]}
    return _events.validate_python(body)


class _CommandInbox:
    def __init__(self, messages: MessageInbox) -> None:
        self._messages = messages

    def get(self, wait: bool) -> Command | None:
        message = self._messages.get(wait)
        return None if message is None else _commands.validate_python(message[0])


class EngineServer:
    """The child's side: the engine called ``engine``, with the other options."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._engine = find("illustrious.images", options["engine"])(EngineOptions(**options["options"]))

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        for event in self._engine.run(_CommandInbox(inbox)):
            yield encode(event)


class _Work:
    """The pictures of one request under way in the child, and whoever waits for them."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step = on_step
        self.results: asyncio.Future[tuple[ImageResult, ...]] = asyncio.get_running_loop().create_future()

    def fail(self, error: StudioError) -> None:
        if not self.results.done():
            self.results.set_exception(error)


class ImageWorker:
    """The parent's side. Start it, ask it for pictures, close it; all on one event loop.

    ``on_change`` is called whenever it may have room that it had not before.
    """

    def __init__(
        self,
        engine: str,
        options: EngineOptions,
        name: str = "image-0",
        environment: dict[str, str] | None = None,
        backoff: float = 0.5,
        silence: float = SILENCE,
        stuck_step: float = STUCK_STEP,
    ) -> None:
        self.engine = engine
        self.name = name
        self.deaths = 0
        self.on_change: Callable[[], None] = lambda: None
        self._options = options
        self._checking: ImageEngine = find("illustrious.images", engine)(options)
        self._environment = environment
        self._backoff = backoff
        self._silence = silence
        self._stuck_step = stuck_step
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._held: dict[str, str] = {}
        self._warnings: tuple[str, ...] = ()
        self._loading = 0.0
        self._reason: str | None = None
        self._settled = asyncio.Event()
        self._hopeless = asyncio.Event()
        self._under_way: dict[str, _Work] = {}
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._last_progress = 0.0

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def memory(self) -> Memory:
        return self._child.memory if self._child else Memory()

    @property
    def ready(self) -> Ready | None:
        """What the engine runs on; ``None`` while it loads or when it cannot."""
        return self._ready

    @property
    def held(self) -> dict[str, str]:
        """The models in its memory, by the names that requests call them, and where each is."""
        return self._held if self._ready else {}

    @property
    def loading_progress(self) -> float | None:
        """From 0 to 1; ``None`` while it does not load."""
        return self._loading if self.state in ("loading", "restarting") else None

    @property
    def capacity(self) -> int:
        """How many pictures it draws at a time now; 0 while the model is not there."""
        return self._ready.capacity if self._ready else 0

    @property
    def state(self) -> State:
        if self._reason is not None:
            return "unavailable"
        if self._task is None:
            return "stopped"
        if self._ready is None:
            return "restarting" if self.deaths else "loading"
        return "drawing" if self._under_way else "idle"

    def status(self) -> BackendStatus:
        ready = self._ready
        return BackendStatus(
            name=self.engine,
            available=ready is not None,
            loading=self.state in ("loading", "restarting"),
            progress=self.loading_progress,
            model=ready.model if ready else None,
            device=ready.device if ready else None,
            note=ready.note if ready else None,
            reason=self._reason,
            warnings=self._warnings if ready else (),
        )

    async def start(self) -> None:
        """Begin to load, unless that was done before. Returns at once."""
        if self._task is None and self._reason is None:
            self._task = asyncio.create_task(self._supervise(), name=self.name)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._give_up("The studio is closing; send the request again once it runs.")

    async def wait_until_loaded(self) -> None:
        """Return once the model is there. Raises ``Unavailable`` with the reason when it never will be."""
        await self._settled.wait()
        if self._reason is not None:
            raise Unavailable(self._reason)

    async def wait_until_hopeless(self) -> str:
        """Return, with the reason, once it is known that the model will never be there."""
        await self._hopeless.wait()
        return self._reason or ""

    def check(self, request: ImageRequest, library: Library) -> tuple[str, ...]:
        """What the engine says of a request before it waits, here and whether or not its child runs: warnings.

        From any thread. Raises ``InvalidRequest``.
        """
        return self._checking.check(request, library)

    async def draw(
        self, request: ImageRequest, on_step: OnStep | None = None, caller: str = ""
    ) -> tuple[ImageResult, ...]:
        """The request's pictures, once the model is there. Cancelling the task cancels them.

        ``caller`` is for whom: callers take turns.

        Raises ``WorkerDied`` when the child ended under it, ``Unavailable``, ``InvalidRequest``, ``EngineFailed``.
        """
        await self.wait_until_loaded()
        job_id = str(next(self._numbers))
        work = _Work(on_step)
        if not self._under_way:
            self._last_progress = time.monotonic()
        self._under_way[job_id] = work
        try:
            self._send(Admit(job_id=job_id, request=request, caller=caller))
            return await work.results
        except asyncio.CancelledError:
            self._send(Cancel(job_id=job_id))
            raise
        finally:
            del self._under_way[job_id]
            self.on_change()

    def _send(self, command: Command) -> None:
        """Send, or leave it: the end of a child is noticed by the supervisor, who tells those that wait."""
        if self._child is not None:
            with contextlib.suppress(EngineFailed):
                self._child.send((command.model_dump(mode="json"), []))

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._ready = None
        self._settled.set()
        self._hopeless.set()
        for work in self._under_way.values():
            work.fail(Unavailable(reason))

    async def _supervise(self) -> None:
        early_deaths = 0
        while True:
            child = Child(
                "illustrious.images.process:EngineServer",
                {"engine": self.engine, "options": self._options.model_dump(mode="json")},
                self._environment,
            )
            self._child = child
            self._loading = 0.0
            watching = asyncio.create_task(self._watch(child))
            try:
                child.start()
                async for event in self._events(child):
                    self._handle(event)
                code = await asyncio.to_thread(child.exit_code)
            except EngineFailed:  # it was gone before it could be told its options
                code = await asyncio.to_thread(child.exit_code)
            finally:
                watching.cancel()
                was_ready, self._ready = self._ready is not None, None
                await asyncio.shield(asyncio.to_thread(child.stop))
            if self._reason is not None:
                return
            self.deaths += 1
            for work in self._under_way.values():
                work.fail(WorkerDied(f"The worker process ended (exit code {code}) while it drew this picture."))
            early_deaths = 0 if was_ready else early_deaths + 1
            if early_deaths >= RESTARTS_BEFORE_READY:
                self._give_up(
                    f"The image engine ended {early_deaths} times while loading (exit code {code}). "
                    "The memory may be too small for this model: choose another with --model."
                )
                return
            self._settled.clear()
            await asyncio.sleep(self._backoff * 2**early_deaths)

    async def _watch(self, child: Child) -> None:
        """Kill a child that hangs: its end is then handled like any other."""
        while True:
            await asyncio.sleep(min(self._silence, self._stuck_step, 5.0) / 5)
            stuck = self._under_way and time.monotonic() - self._last_progress > self._stuck_step
            if child.silence > self._silence or stuck:
                child.kill()
                return

    async def _events(self, child: Child) -> AsyncIterator[Event]:
        async for message in child.messages():
            yield decode(message)

    def _handle(self, event: Event) -> None:
        self._last_progress = time.monotonic()
        match event:
            case Loading(progress=progress):
                self._loading = progress
            case Ready():
                self._ready = event
                self._held = {event.model: event.device}
                self._warnings = ()
                self._settled.set()
                self.on_change()
            case Held(models=models):
                self._held = models
            case Warned(warnings=warnings):
                self._warnings = warnings
            case Unloadable(reason=reason):
                self._give_up(reason)
            case Step(job_id=job_id):
                if (work := self._under_way.get(job_id)) and work.on_step:
                    work.on_step(event)
            case Done(job_id=job_id, results=results):
                if (work := self._under_way.get(job_id)) and not work.results.done():
                    work.results.set_result(results)
            case Failed(job_id=job_id):
                if work := self._under_way.get(job_id):
                    work.fail(_why(event))


def _why(failed: Failed) -> StudioError:
    match failed.error:
        case "invalid":
            return InvalidRequest(failed.message, failed.field)
        case "cancelled":
            return Cancelled(failed.message)
        case "failed":
            return EngineFailed(failed.message)
