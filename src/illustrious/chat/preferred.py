"""Several chat backends as one: the first that can answer does."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from illustrious.chat import ChatBackend
from illustrious.errors import Unavailable
from illustrious.types import BackendStatus, ChatDelta, ChatRequest


class PreferredChat:
    """Backends in order of preference (Ollama, then the embedded one). Itself a ``ChatBackend`` to whoever uses it."""

    def __init__(self, backends: Sequence[ChatBackend]) -> None:
        self._backends = tuple(backends)

    async def start(self) -> None:
        for backend in self._backends:
            await backend.start()

    def statuses(self) -> list[BackendStatus]:
        """Every backend's own, in order of preference: also why an earlier one does not answer."""
        return [backend.status() for backend in self._backends]

    def status(self) -> BackendStatus:
        """That of the backend that would answer now; when none would, why not, of all of them."""
        statuses = self.statuses()
        for status in statuses:
            if status.available:
                return status
        return BackendStatus(
            name=" or ".join(status.name for status in statuses) or "none",
            available=False,
            loading=any(status.loading for status in statuses),
            reason=_together([status.reason for status in statuses if status.reason]),
        )

    async def refresh(self) -> None:
        await asyncio.gather(*(backend.refresh() for backend in self._backends))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """The first backend's answer. One that turns out to be away before its first piece is passed over; once a
        piece was given the answer is that backend's, for better or worse."""
        reasons = []
        for backend in self._backends:
            status = backend.status()
            if not status.available and not status.loading:
                reasons.append(status.reason or f"{status.name} is not available.")
                continue
            async with aclosing(backend.chat(request)) as answer:
                try:
                    first = await anext(answer)
                except Unavailable as error:
                    reasons.append(str(error))
                    continue
                yield first
                async for delta in answer:
                    yield delta
                return
        raise Unavailable(_together(reasons))

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()


def _together(reasons: Sequence[str]) -> str:
    return " ".join(reasons) or "No chat backend is configured; connect Ollama or add a GGUF model."
