"""Chat backends that can see, for tests: what they were asked is kept, and what they answer is settled beforehand."""

import io
from collections.abc import AsyncGenerator

from PIL import Image

from illustrious.chat import ChatOptions
from illustrious.errors import StudioError
from illustrious.types import BackendStatus, ChatDelta, ChatRequest


class SeeingChat:
    """Names the shape of the picture and the colour of its middle: as much of a vision model as a test needs."""

    def __init__(self, options: ChatOptions) -> None:
        self.state = BackendStatus(name="seeing", available=True, model="eyes-7b", device="cpu", vision=options.vision)
        self.asked: list[ChatRequest] = []
        self.raises: StudioError | None = None
        self.says: str | None = None
        self.life: list[str] = []

    async def start(self) -> None:
        self.life.append("start")

    def status(self) -> BackendStatus:
        return self.state

    async def refresh(self) -> None:
        self.life.append("refresh")

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        self.asked.append(request)
        if self.raises:
            raise self.raises
        for word in (self.says if self.says is not None else self._seen(request)).split(" "):
            yield ChatDelta(text=f"{word} ")
        yield ChatDelta(done="stop")

    def _seen(self, request: ChatRequest) -> str:
        picture = Image.open(io.BytesIO(request.messages[-1].images[0]))
        shape = "portrait" if picture.height > picture.width else "landscape"
        return f"A {shape} picture, {picture.getpixel((picture.width // 2, picture.height // 2))} in the middle."

    async def close(self) -> None:
        self.life.append("close")
