"""The studio: what it can do, said once for every dialect. Nouns in, nouns out; it knows no HTTP."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from illustrious.chat import ChatBackend
from illustrious.chat.sessions import Sessions, fit
from illustrious.errors import InvalidRequest
from illustrious.gallery.store import Gallery, SavedPicture
from illustrious.images.process import ImageWorker
from illustrious.pictures import open_picture
from illustrious.types import (
    SEED_LIMIT,
    Analysis,
    AnalysisRequest,
    BackendStatus,
    ChatMessage,
    ChatRequest,
    ImageRequest,
    Noun,
    Progress,
)
from illustrious.vision import Analyzer

DRAW_COMMAND = "#generate"
DRAW_HELP = (
    f"🎨 Write what to draw after {DRAW_COMMAND}, for example: {DRAW_COMMAND} a red apple on a blue background"
)


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


class Reply(Noun):
    """An answer in a conversation, with the picture when one was asked for."""

    text: str
    picture: SavedPicture | None = None


class Studio:
    """Everything behind the edges. ``start`` it and ``close`` it on one event loop."""

    def __init__(
        self,
        images: ImageWorker,
        chat: ChatBackend,
        vision: Analyzer,
        sessions: Sessions,
        gallery: Gallery,
        system_prompt: str,
        limits: Limits,
        refresh_every: float = 5.0,
    ) -> None:
        self.images = images
        self.chat_backend = chat
        self.vision = vision
        self.sessions = sessions
        self.gallery = gallery
        self._system_prompt = system_prompt
        self.limits = limits
        self._refresh_every = refresh_every
        self._refreshing: asyncio.Task[None] | None = None
        self._chance = random.SystemRandom()

    async def start(self, draw: bool = True) -> None:
        """Begin to load. Returns at once; what cannot be loaded is told by ``backends``. Without ``draw`` the image
        model waits for the first picture."""
        if draw:
            await self.images.start()
        await asyncio.gather(self.chat_backend.start(), self.vision.start())
        self._refreshing = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """End every child process."""
        if self._refreshing:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        await asyncio.gather(self.images.close(), self.chat_backend.close(), self.vision.close())

    async def _keep_looking(self) -> None:
        """Notice backends that come up or go away, without asking them on every request."""
        while True:
            await asyncio.gather(self.chat_backend.refresh(), self.vision.refresh())
            await asyncio.sleep(self._refresh_every)

    def backends(self) -> dict[str, BackendStatus]:
        """What serves images, chat and vision now: known, not asked, so it takes microseconds."""
        return {"image": self.images.status(), "chat": self.chat_backend.status(), "vision": self.vision.status()}

    async def generate(
        self, request: ImageRequest, source: str, on_progress: Callable[[Progress], None] | None = None
    ) -> SavedPicture:
        """Draw one picture and save it. Raises ``Unavailable``, ``InvalidRequest``, ``EngineFailed``,
        ``StorageFailed``."""
        if (request.width or 8) * (request.height or 8) > self.limits.pixels:
            raise InvalidRequest(
                f"{request.width or '…'}×{request.height or '…'} is more than the {self.limits.pixels} pixels allowed; "
                "ask for a smaller picture.",
                field="width",
            )
        if request.seed < 0:
            request = request.model_copy(update={"seed": self._chance.randrange(min(2**32, SEED_LIMIT))})
        await self.images.start()
        result = await self.images.draw(request, on_progress)
        return await self.gallery.save(result, source)

    async def chat(self, session_id: str, message: str, temperature: float, max_tokens: int) -> Reply:
        """Answer within the session, remembering both sides. ``#generate …`` draws.

        Raises ``Unavailable``, ``EngineFailed``, ``InvalidRequest``, ``StorageFailed``; after an error the session
        is as it was before.
        """
        if not message.strip():
            raise InvalidRequest("The message is empty; write something.", field="message")
        async with self.sessions.turn(session_id):
            prompt = drawing_prompt(message)
            if prompt is not None:
                reply = await self._draw_in_chat(prompt)
            else:
                reply = Reply(text=await self._answer(session_id, message, temperature, max_tokens))
            turn = [ChatMessage(role="user", content=message), ChatMessage(role="assistant", content=reply.text)]
            await self.sessions.append(session_id, turn)
            return reply

    async def _draw_in_chat(self, prompt: str) -> Reply:
        if not prompt:
            return Reply(text=DRAW_HELP)
        picture = await self.generate(ImageRequest(prompt=prompt), source="chat")
        text = f"🎨 Here is “{prompt}”. Seed: {picture.result.request.seed}"
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
