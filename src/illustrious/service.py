"""The studio: what it can do, said once for every dialect. Nouns in, nouns out; it knows no HTTP."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from illustrious.catalog.cards import ADAPTERS, Card, adapters, checkpoints
from illustrious.catalog.determine import determine
from illustrious.catalog.hashes import Hashes
from illustrious.catalog.library import Library
from illustrious.chat import ChatBackend
from illustrious.chat.sessions import Sessions, fit
from illustrious.drawing import KIND
from illustrious.errors import (
    Cancelled,
    EngineFailed,
    InvalidRequest,
    NotFound,
    StorageFailed,
    StudioError,
    Unavailable,
)
from illustrious.gallery.replay import Drawing, Report, compare
from illustrious.gallery.replay import request as request_again
from illustrious.gallery.store import Gallery
from illustrious.gallery.table import Picture
from illustrious.images import Ready
from illustrious.images.process import ImageWorker
from illustrious.jobs import Failure, Job, Priority, Submission
from illustrious.jobs.runner import Runner
from illustrious.journal import Journal
from illustrious.metrics import Metrics
from illustrious.pictures import open_picture
from illustrious.process import resident
from illustrious.types import (
    SEED_LIMIT,
    Analysis,
    AnalysisRequest,
    BackendStatus,
    ChatMessage,
    ChatRequest,
    ImageRequest,
    Noun,
    Speed,
    WorkerProcess,
)
from illustrious.vision import Analyzer
from illustrious.writer import Writer

log = logging.getLogger(__name__)

DAY = 86400.0

DRAW_COMMAND = "#generate"
DRAW_HELP = f"🎨 Write what to draw after {DRAW_COMMAND}, for example: {DRAW_COMMAND} a red apple on a blue background"


def drawing_prompt(message: str) -> str | None:
    """What a message that begins with ``#generate`` asks to draw (may be empty); ``None`` for any other message."""
    command, *rest = message.split(maxsplit=1) or [""]
    if command.lower() != DRAW_COMMAND:
        return None
    return rest[0].strip() if rest else ""


class Limits(Noun):
    """The largest picture to draw or to look at (pixels), and to be sent in (bytes)."""

    pixels: int = 2048 * 2048
    image_bytes: int = 20_000_000


class Asker(Noun):
    """Who asks, and how. Owners share the queue evenly; an ``idempotency_key`` makes asking twice the same job, and
    ``fingerprint`` tells what was sent with it. ``parent``: the job or picture this one repeats. ``request_id``: the
    name of the call."""

    owner: str = "local"
    priority: Priority = "interactive"
    idempotency_key: str | None = None
    fingerprint: str | None = None
    parent: str | None = None
    request_id: str | None = None


class Saved(Noun):
    """A finished picture: where it is, and what it was drawn with."""

    id: str
    url: str
    seed: int
    width: int
    height: int
    model: str
    speed: Speed = "exact"


class Drawn(Saved):
    """The first picture of a job, with the bytes of its file. ``all`` of them in the order of their seeds."""

    job_id: str
    path: Path
    image: bytes
    all: tuple[Saved, ...]
    warnings: tuple[str, ...] = ()


class Reply(Noun):
    """An answer in a conversation, with the picture when one was asked for."""

    text: str
    picture: Drawn | None = None


def _serving(status: BackendStatus, ability: str) -> list[Card]:
    """The model that a backend answers with now, if any."""
    if status.model is None:
        return []
    abilities = (ability, "vision") if status.vision and ability != "vision" else (ability,)
    return [
        Card(
            id=status.model,
            name=status.model,
            backend=status.name,
            device=status.device,
            capabilities=abilities,
            loaded=status.available,
            default=True,
            note=status.note,
        )
    ]


def _why(failure: Failure) -> StudioError:
    """What a failed job raises for whoever waits for it."""
    match failure.kind:
        case "InvalidRequest":
            return InvalidRequest(failure.message, failure.field)
        case "Unavailable":
            return Unavailable(failure.message)
        case "StorageFailed":
            return StorageFailed(failure.message)
        case _:
            return EngineFailed(failure.message)


OnJob = Callable[[Job], None]


class Studio:
    """Everything behind the edges. ``start`` it and ``close`` it on one event loop."""

    def __init__(
        self,
        workers: Sequence[ImageWorker],
        runner: Runner,
        writer: Writer,
        library: Library,
        hashes: Hashes,
        chat: ChatBackend,
        vision: Analyzer,
        sessions: Sessions,
        gallery: Gallery,
        metrics: Metrics,
        journal: Journal,
        system_prompt: str,
        limits: Limits,
        back_up: Callable[[], object] = lambda: None,
        trash_days: float = 30.0,
        refresh_every: float = 5.0,
    ) -> None:
        self.workers = tuple(workers)
        self.runner = runner
        self.library = library
        self.hashes = hashes
        self.chat_backend = chat
        self.vision = vision
        self.sessions = sessions
        self.gallery = gallery
        self.metrics = metrics
        self.journal = journal
        self.limits = limits
        self._writer = writer
        self._system_prompt = system_prompt
        self._back_up = back_up
        self._trash_days = trash_days
        self._refresh_every = refresh_every
        self._tending: list[asyncio.Task[None]] = []
        self._chance = random.SystemRandom()
        for worker in self.workers:
            worker.on_change = runner.wake

    async def start(self, draw: bool = True) -> None:
        """Begin to load, and go on with the jobs that were left. Returns at once; what cannot be loaded is told by
        ``backends``. Without ``draw`` the image model waits for the first picture. Raises ``StorageFailed``."""
        if draw:
            await self._load()
        await self.runner.start()
        await asyncio.gather(self.chat_backend.start(), self.vision.start())
        self._tending = [asyncio.create_task(self._keep_looking())]
        if draw:
            self._tending.append(asyncio.create_task(self._tend_daily()))
            self._tending.append(asyncio.create_task(self._hash_default()))

    async def drain(self, within: float) -> None:
        """Begin no more jobs; finish those under way in this time (seconds), or leave them for the next start."""
        await self.runner.drain(within)

    async def close(self) -> None:
        """End every child process. What was not ``drain``ed before is left for the next start."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        await self.runner.drain(0)
        workers = [worker.close() for worker in self.workers]
        await asyncio.gather(*workers, self.chat_backend.close(), self.vision.close(), self.hashes.close())
        await asyncio.to_thread(self.library.identities.keep)
        await self._writer.close()

    async def _load(self) -> None:
        await asyncio.gather(*(worker.start() for worker in self.workers))

    async def _keep_looking(self) -> None:
        """Notice backends that come up or go away, without asking them on every request."""
        while True:
            await asyncio.gather(self.chat_backend.refresh(), self.vision.refresh())
            await asyncio.sleep(self._refresh_every)

    async def _tend_daily(self) -> None:
        """Find what was copied in by hand; put away what lay in the trash for long; copy the database."""
        while True:
            try:
                await self.gallery.scan()
                await self.gallery.sweep_trash(self._trash_days * DAY)
                await asyncio.to_thread(self._back_up)
            except StudioError as error:  # the next round tries again
                log.error("The studio cannot be tended: %s", error)
            await asyncio.sleep(DAY)

    async def _hash_default(self) -> None:
        """So that the first picture need not wait for the hash of its model."""
        await self.hashes.of(await asyncio.to_thread(self.library.default))

    @property
    def ready(self) -> Ready | None:
        """What the image model runs on; ``None`` while it loads or when it cannot."""
        return next((worker.ready for worker in self.workers if worker.ready), None)

    def backends(self) -> dict[str, BackendStatus]:
        """What serves images, chat and vision now: known, not asked, so it takes microseconds.

        Of several image workers one speaks for all, with the warnings of each."""
        statuses = [worker.status() for worker in self.workers]
        image = next((status for status in statuses if status.available), statuses[0])
        warnings = tuple(dict.fromkeys(warning for status in statuses for warning in status.warnings))
        image = image.model_copy(update={"warnings": warnings})
        return {"image": image, "chat": self.chat_backend.status(), "vision": self.vision.status()}

    def processes(self) -> list[WorkerProcess]:
        """The child processes, and those that could be."""
        image = [
            WorkerProcess(
                id=worker.name,
                kind="image",
                pid=worker.pid,
                device=worker.ready.device if worker.ready else None,
                state=worker.state,
                model=worker.ready.model if worker.ready else None,
                progress=worker.loading_progress,
                rss=worker.memory.rss,
                vram=worker.memory.vram,
                restarts=worker.deaths,
            )
            for worker in self.workers
        ]
        other: list[tuple[Literal["chat", "vision"], BackendStatus]] = [
            ("chat", self.chat_backend.status()),
            ("vision", self.vision.status()),
        ]
        return [
            *image,
            *(
                WorkerProcess(
                    id=status.name,
                    kind=kind,
                    pid=status.pid,
                    device=status.device,
                    state="loading" if status.loading else "idle" if status.available else "unavailable",
                    model=status.model,
                    rss=resident(status.pid),
                )
                for kind, status in other
            ),
        ]

    async def models(self) -> dict[str, list[Card]]:
        """All there is to draw, chat and look with, by kind: ``image``, ``chat``, ``vision``, ``lora``, …"""
        image = await asyncio.to_thread(checkpoints, self.library, self.hashes)
        others = [await asyncio.to_thread(adapters, kind, self.library, self.hashes) for kind in ADAPTERS]
        await asyncio.to_thread(self.library.identities.keep)
        return {
            "image": [self._placed(card) for card in image],
            "chat": _serving(self.chat_backend.status(), "chat"),
            "vision": _serving(self.vision.status(), "vision"),
            **{kind: list(cards) for kind, cards in zip(ADAPTERS, others, strict=True)},
        }

    def _placed(self, card: Card) -> Card:
        """Told what serves it, and where it is in memory."""
        device = next((worker.held[card.id] for worker in self.workers if card.id in worker.held), None)
        return card.model_copy(
            update={"backend": self.workers[0].engine, "device": device, "loaded": device is not None}
        )

    # --- pictures ----------------------------------------------------------------------------------------------

    async def submit(self, request: ImageRequest, asker: Asker) -> tuple[Job, bool]:
        """A durable job for the picture, and whether it is new. What the request left open is decided: the model, what
        its family is best drawn with, the seed.

        Raises ``InvalidRequest``, ``QueueFull``, ``StorageFailed``; ``Unavailable`` when no worker will ever draw it.
        """
        request, warnings = await asyncio.to_thread(self._decided, request)
        await self._load()
        if all(worker.state == "unavailable" for worker in self.workers):
            raise Unavailable(self.backends()["image"].reason or "No image model can be loaded.")
        submission = Submission(
            kind=KIND, request=request.model_dump(mode="json"), warnings=warnings, **asker.model_dump()
        )
        return await self.runner.submit(submission)

    def _decided(self, request: ImageRequest) -> tuple[ImageRequest, tuple[str, ...]]:
        """The request with nothing left open, and warnings. Raises ``InvalidRequest`` for what nobody could draw."""
        request, warnings = determine(request, self.library)
        if (request.width or 8) * (request.height or 8) > self.limits.pixels:
            raise InvalidRequest(
                f"{request.width or '…'}×{request.height or '…'} is more than the {self.limits.pixels} pixels allowed; "
                "ask for a smaller picture.",
                field="width",
            )
        if request.seed < 0:
            request = request.model_copy(update={"seed": self._chance.randrange(min(2**32, SEED_LIMIT))})
        return request, (*warnings, *self.workers[0].check(request, self.library))

    async def generate(self, request: ImageRequest, asker: Asker, on_job: OnJob = lambda job: None) -> Drawn:
        """Submit, and wait for the picture. ``on_job`` hears of the job as soon as it is durable. Who stops waiting
        does not stop the job.

        Raises what ``submit`` raises, and ``EngineFailed`` or ``Cancelled`` as the job ended.
        """
        job, _ = await self.submit(request, asker)
        on_job(job)
        return await self.drawn(await self._over(job))

    async def drawn(self, job: Job) -> Drawn:
        """The pictures of a job that is over. Raises what became of it instead; ``NotFound`` if the file is gone."""
        if job.state == "failed" and job.error is not None:
            raise _why(job.error)
        if job.state != "succeeded" or job.result is None:
            raise Cancelled("The picture was cancelled. Submit it again if it is still wanted.")
        saved = tuple(Saved.model_validate(image) for image in job.result["images"])
        path = await self.gallery.file(saved[0].id)
        data = await asyncio.to_thread(path.read_bytes)
        return Drawn(**saved[0].model_dump(), all=saved, job_id=job.id, path=path, image=data, warnings=job.warnings)

    async def _over(self, job: Job) -> Job:
        """The job once it is over. One that no worker will ever draw is withdrawn, so that it is not drawn for nobody
        after the next start."""
        over = asyncio.ensure_future(self.runner.wait(job.id))
        hopeless = asyncio.ensure_future(self._hopeless())
        try:
            either: set[asyncio.Future[Any]] = {over, hopeless}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                return over.result()
            await self.runner.cancel(job.id)
            raise Unavailable(hopeless.result())
        finally:
            over.cancel()
            hopeless.cancel()

    async def _hopeless(self) -> str:
        """Return, with the reason, once no worker will ever draw."""
        reasons = [await worker.wait_until_hopeless() for worker in self.workers]
        return reasons[0]

    async def cancel(self, job_id: str) -> Job:
        """Withdraw a job: one that runs stops at its next step. Raises ``NotFound``, ``StorageFailed``."""
        return await self.runner.cancel(job_id)

    async def resubmit(self, job_id: str, asker: Asker) -> Job:
        """The same request once more, as a new job. Raises ``NotFound``, ``QueueFull``, ``StorageFailed``."""
        old = await self.runner.store.get(job_id)
        request = ImageRequest.model_validate(old.request)
        job, _ = await self.submit(request, asker.model_copy(update={"parent": old.id}))
        return job

    async def replay(self, image_id: str, asker: Asker, on_job: OnJob = lambda job: None) -> tuple[Report, Drawn]:
        """Draw a picture of the gallery again, and say whether it is the same, and if not what differs.

        Raises ``NotFound``, ``InvalidRequest`` when its file does not say enough, and what ``generate`` raises.
        """
        before = await self._as_drawn(image_id)
        picture = await self.gallery.get(image_id)
        request = request_again(picture, await self._sent_for(picture))
        drawn = await self.generate(request, asker.model_copy(update={"parent": picture.id}), on_job)
        return compare(before, await self._as_drawn(drawn.id)), drawn

    async def _sent_for(self, picture: Picture) -> Mapping[str, Any] | None:
        """The request of the picture's job, while that is remembered: it holds the pictures that were sent in."""
        if picture.job is None:
            return None
        try:
            return (await self.runner.store.get(picture.job)).request
        except NotFound:
            return None

    async def _as_drawn(self, image_id: str) -> Drawing:
        picture, path = await self.gallery.open(image_id)
        image = await asyncio.to_thread(path.read_bytes)
        return Drawing(
            image=image, pixels=picture.pixels, parameters=picture.parameters, environment=picture.environment
        )

    # --- words -------------------------------------------------------------------------------------------------

    async def chat(
        self,
        session_id: str,
        message: str,
        temperature: float,
        max_tokens: int,
        asker: Asker | None = None,
        on_job: OnJob = lambda job: None,
    ) -> Reply:
        """Answer within the session, remembering both sides. ``#generate …`` draws.

        Raises ``Unavailable``, ``EngineFailed``, ``InvalidRequest``, ``StorageFailed``; after an error the session
        is as it was before.
        """
        if not message.strip():
            raise InvalidRequest("The message is empty; write something.", field="message")
        async with self.sessions.turn(session_id):
            prompt = drawing_prompt(message)
            if prompt is not None:
                reply = await self._draw_in_chat(prompt, asker or Asker(), on_job)
            else:
                reply = Reply(text=await self._answer(session_id, message, temperature, max_tokens))
            turn = [ChatMessage(role="user", content=message), ChatMessage(role="assistant", content=reply.text)]
            await self.sessions.append(session_id, turn)
            return reply

    async def _draw_in_chat(self, prompt: str, asker: Asker, on_job: OnJob) -> Reply:
        if not prompt:
            return Reply(text=DRAW_HELP)
        picture = await self.generate(ImageRequest(prompt=prompt), asker, on_job)
        text = f"🎨 Here is “{prompt}”. Seed: {picture.seed}"
        return Reply(text=text, picture=picture)

    async def _answer(self, session_id: str, message: str, temperature: float, max_tokens: int) -> str:
        context = self.chat_backend.status().context_length or 4096
        max_tokens = min(max_tokens, context)  # more than the context holds is never answered
        history = await self.sessions.history(session_id)
        messages = fit(
            [
                ChatMessage(role="system", content=self._system_prompt),
                *history,
                ChatMessage(role="user", content=message),
            ],
            context,
            max_tokens,
        )
        request = ChatRequest(messages=tuple(messages), temperature=temperature, max_tokens=max_tokens)
        return await self._complete(request)

    async def _complete(self, request: ChatRequest) -> str:
        async with contextlib.aclosing(self.chat_backend.chat(request)) as pieces:
            return "".join([piece.text async for piece in pieces])

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        """Say what is in the picture. Raises ``InvalidRequest``, ``TooLarge``, ``Unavailable``, ``EngineFailed``."""
        await asyncio.to_thread(open_picture, request.image, self.limits.pixels)
        return await self.vision.analyze(request)
