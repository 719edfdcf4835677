"""The chat backend protocol: a conversation in, pieces of an answer out."""

from collections.abc import AsyncIterator
from typing import Protocol

from illustrious.types import BackendStatus, ChatDelta, ChatRequest


class ChatBackend(Protocol):
    async def start(self) -> None:
        """Begin whatever must be begun (a child process, a first probe). Returns at once; never raises."""

    def status(self) -> BackendStatus:
        """What is known now, without asking anybody: answers in microseconds."""

    async def refresh(self) -> None:
        """Look again whether the backend is there. Called now and then by the owner, not on every request."""

    def chat(self, request: ChatRequest) -> AsyncIterator[ChatDelta]:
        """The answer, piece by piece; the last piece has ``done``. Waits while the model is loading.

        Raises ``Unavailable`` when no model can answer and ``EngineFailed`` when one fails at it. Closing the
        iterator early stops the generation.
        """

    async def close(self) -> None:
        """End what ``start`` began; no process is left."""
