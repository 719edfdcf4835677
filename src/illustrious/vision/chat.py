"""Any chat backend whose model can see, as an analyzer."""

import asyncio
import io
from contextlib import aclosing

from PIL import Image

from illustrious.chat import ChatBackend
from illustrious.errors import EngineFailed, Unavailable
from illustrious.pictures import open_picture, to_rgb
from illustrious.registry import registered
from illustrious.types import Analysis, AnalysisRequest, BackendStatus, ChatMessage, ChatRequest
from illustrious.vision import DEFAULTS, VisionOptions

LONG_SIDE = 1536
"""Pixels. Vision models reduce what they get to 336 … 1,600 a side anyway; more only costs time on the way."""

LOSSLESS_SIDE = 512
"""Up to this many pixels a side a picture is sent as PNG: small drawings and screenshots suffer most from JPEG."""

TEMPERATURE = 0.2
"""Low: what is there is asked for, not what might be."""

MAX_TOKENS = 600


@registered("chat")
class ChatAnalyzer:
    def __init__(self, backend: ChatBackend, options: VisionOptions = DEFAULTS) -> None:
        self._backend = backend
        self._options = options

    async def start(self) -> None:
        await self._backend.start()

    def status(self) -> BackendStatus:
        """The backend's, and available only when its model can see."""
        status = self._backend.status()
        if status.available and not status.vision:
            return status.model_copy(update={"available": False, "reason": _blind(status)})
        return status

    async def refresh(self) -> None:
        await self._backend.refresh()

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        """The model's answer. Waits while the model is loading.

        Raises ``Unavailable`` also when the model turns out to be one that cannot see, and ``EngineFailed`` also when
        it says nothing.
        """
        status = self.status()
        if not status.available and not status.loading:
            raise Unavailable(status.reason or f"{status.name} is not available; start it and ask again.")
        image = await asyncio.to_thread(self._prepare, request.image)
        message = ChatMessage(role="user", content=request.question, images=(image,))
        question = ChatRequest(messages=(message,), temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
        async with aclosing(self._backend.chat(question)) as answer:
            text = "".join([delta.text async for delta in answer]).strip()
        status = self._backend.status()
        if status.available and not status.vision:  # known only now, if it was loading before
            raise Unavailable(_blind(status))
        if not text:
            raise EngineFailed("The vision model answered nothing; ask again, or ask in other words.")
        return Analysis(text=text, model=status.model or status.name)

    async def close(self) -> None:
        await self._backend.close()

    def _prepare(self, data: bytes) -> bytes:
        """The picture as every vision model reads it: upright, RGB, no larger than is of use, PNG or JPEG."""
        picture = to_rgb(open_picture(data, self._options.max_pixels))
        picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        picture.info.clear()  # nothing the file says about itself travels on
        buffer = io.BytesIO()
        if max(picture.size) <= LOSSLESS_SIDE:
            picture.save(buffer, "PNG")
        else:
            picture.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def _blind(status: BackendStatus) -> str:
    return f"The {status.name} model {status.model or ''} cannot see pictures; choose a vision model."
