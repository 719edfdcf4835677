"""A chat backend without a model, for tests and for work on the user interface: it says what was said."""

import asyncio
from collections.abc import AsyncGenerator

from illustrious.chat import ChatOptions
from illustrious.registry import registered
from illustrious.types import BackendStatus, ChatDelta, ChatRequest


@registered("echo")
class EchoChat:
    """Answers ``Turn N: `` and the last message, where N counts the user's messages it was shown. A word is a token."""

    def __init__(self, options: ChatOptions) -> None:
        self._vision = options.vision

    async def start(self) -> None: ...

    def status(self) -> BackendStatus:
        return BackendStatus(
            name="echo",
            available=True,
            model="echo",
            device="cpu",
            note="repeats what it is told; for tests",
            context_length=4096,
            vision=self._vision,
        )

    async def refresh(self) -> None: ...

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        spoken = [message for message in request.messages if message.role == "user"]
        seen = f" [{len(spoken[-1].images)} images]" if spoken and spoken[-1].images else ""
        words = f"Turn {len(spoken)}: {spoken[-1].content if spoken else ''}{seen}".split(" ")
        for position, word in enumerate(words[: request.max_tokens]):
            await asyncio.sleep(0)  # others get their turn, as with a model that takes time
            yield ChatDelta(text=word if position == 0 else f" {word}")
        yield ChatDelta(done="length" if len(words) > request.max_tokens else "stop")

    async def close(self) -> None: ...
