"""An image engine in a supervised child process.

The child runs the engine's generator; the parent admits pictures, follows their events and starts a new child when
one dies. A picture that was under way when the child died is admitted again, so whoever waits for it still gets it,
and because a request determines its picture, gets the same one.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pydantic import TypeAdapter

from illustrious.errors import Cancelled, EngineFailed, InvalidRequest, StudioError, Unavailable
from illustrious.images import (
    Admit,
    Cancel,
    Command,
    Done,
    EngineOptions,
    Event,
    Failed,
    Loading,
    Ready,
    Step,
    Unloadable,
)
from illustrious.process import Child, Message, MessageInbox
from illustrious.registry import find
from illustrious.types import BackendStatus, ImageRequest, ImageResult, Progress

ATTEMPTS = 3
"""A picture whose worker died this often is given up."""

RESTARTS_BEFORE_READY = 3
"""An engine that dies this often in a row before it is ready is given up: its model cannot be loaded here."""

_commands: TypeAdapter[Command] = TypeAdapter(Command)
_events: TypeAdapter[Event] = TypeAdapter(Event)


def encode(event: Event) -> Message:
    """JSON for everything but the pictures, which travel as bytes beside it."""
    if not isinstance(event, Done):
        return event.model_dump(mode="json"), []
    body = event.model_dump(mode="json", exclude={"results": {"__all__": {"image"}}})
    return body, [result.image for result in event.results]


def decode(message: Message) -> Event:
    body, blobs = message
    if body["kind"] == "done":
        results = [{**result, "image": blob} for result, blob in zip(body["results"], blobs, strict=True)]
        body = {**body, "results": results}
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


class _Picture:
    """One picture under way: whoever waits, and how often it was tried."""

    def __init__(self, admit: Admit, on_progress: Callable[[Progress], None] | None) -> None:
        self.admit = admit
        self.on_progress = on_progress
        self.attempts = 0
        self.result: asyncio.Future[ImageResult] = asyncio.get_running_loop().create_future()

    def fail(self, error: StudioError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class ImageWorker:
    """The parent's side. Start it, ask it for pictures, close it; all on one event loop."""

    def __init__(
        self, engine: str, options: EngineOptions, environment: dict[str, str] | None = None, backoff: float = 0.5
    ) -> None:
        self.engine = engine
        self._options = options
        self._environment = environment
        self._backoff = backoff
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._loading = 0.0
        self._reason: str | None = None
        self._settled = asyncio.Event()
        self._pictures: dict[str, _Picture] = {}
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def ready(self) -> Ready | None:
        """What the engine runs on; ``None`` while it loads or when it cannot."""
        return self._ready

    @property
    def loading_progress(self) -> float:
        return self._loading

    def status(self) -> BackendStatus:
        ready = self._ready
        return BackendStatus(
            name=self.engine,
            available=ready is not None,
            loading=ready is None and self._reason is None and self._task is not None,
            model=ready.model if ready else None,
            device=ready.device if ready else None,
            note=ready.note if ready else None,
            reason=self._reason,
        )

    async def start(self) -> None:
        """Begin to load, unless that was done before. Returns at once."""
        if self._task is None and self._reason is None:
            self._task = asyncio.create_task(self._supervise(), name="image worker")

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

    async def draw(
        self, request: ImageRequest, on_progress: Callable[[Progress], None] | None = None
    ) -> ImageResult:
        """One picture, waiting for the model and for the pictures before it. Cancelling the task cancels the picture.

        Raises ``Unavailable``, ``InvalidRequest``, ``EngineFailed``.
        """
        await self.wait_until_loaded()
        job_id = str(next(self._numbers))
        picture = _Picture(Admit(job_id=job_id, request=request), on_progress)
        self._pictures[job_id] = picture
        try:
            self._admit(picture)
            return await picture.result
        except asyncio.CancelledError:
            self._send(Cancel(job_id=job_id))
            raise
        finally:
            del self._pictures[job_id]

    def _admit(self, picture: _Picture) -> None:
        picture.attempts += 1
        self._send(picture.admit)

    def _send(self, command: Command) -> None:
        """Send, or leave it: a child that is gone is noticed by the supervisor, which admits its pictures again."""
        if self._child is not None and self._ready is not None:
            with contextlib.suppress(EngineFailed):
                self._child.send((command.model_dump(mode="json"), []))

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        self._ready = None
        self._settled.set()
        for picture in self._pictures.values():
            picture.fail(Unavailable(reason))

    async def _supervise(self) -> None:
        early_deaths = 0
        while True:
            child = Child(
                "illustrious.images.process:EngineServer",
                {"engine": self.engine, "options": self._options.model_dump(mode="json")},
                self._environment,
            )
            self._child = child
            try:
                child.start()
                async for event in self._events(child):
                    self._handle(event)
                code = await asyncio.to_thread(child.exit_code)
            finally:
                was_ready, self._ready = self._ready is not None, None
                await asyncio.shield(asyncio.to_thread(child.stop))
            if self._reason is not None:
                return
            early_deaths = 0 if was_ready else early_deaths + 1
            if early_deaths >= RESTARTS_BEFORE_READY:
                self._give_up(
                    f"The image engine ended {early_deaths} times while loading (exit code {code}). "
                    "The memory may be too small for this model: choose another with --model."
                )
                return
            self._settled.clear()
            self._forget_the_hopeless()
            await asyncio.sleep(self._backoff * 2**early_deaths)

    def _forget_the_hopeless(self) -> None:
        for picture in self._pictures.values():
            if picture.attempts >= ATTEMPTS:
                picture.fail(
                    EngineFailed(
                        f"The worker process ended {ATTEMPTS} times while drawing this picture. "
                        "Try a smaller size; the other pictures are not affected."
                    )
                )

    async def _events(self, child: Child) -> AsyncIterator[Event]:
        async for message in child.messages():
            yield decode(message)

    def _handle(self, event: Event) -> None:
        match event:
            case Loading(progress=progress):
                self._loading = progress
            case Ready():
                self._ready = event
                self._settled.set()
                for waiting in self._pictures.values():
                    if not waiting.result.done():
                        self._admit(waiting)
            case Unloadable(reason=reason):
                self._give_up(reason)
            case Step(job_id=job_id, step=step, steps=steps):
                if (picture := self._pictures.get(job_id)) and picture.on_progress:
                    picture.on_progress(Progress(step=step, steps=steps))
            case Done(job_id=job_id, results=results):
                if (picture := self._pictures.get(job_id)) and not picture.result.done():
                    picture.result.set_result(results[0])
            case Failed(job_id=job_id, error=error, message=text):
                kinds = {"invalid": InvalidRequest, "cancelled": Cancelled, "failed": EngineFailed}
                if picture := self._pictures.get(job_id):
                    picture.fail(kinds[error](text))
