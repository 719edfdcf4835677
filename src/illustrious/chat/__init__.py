"""The chat backend protocol: a conversation in, pieces of an answer out."""

from collections.abc import AsyncGenerator
from typing import Protocol

from illustrious.types import BackendStatus, ChatDelta, ChatRequest, Noun


class ChatOptions(Noun):
    """What every backend may be told; each takes what concerns it.

    ``model`` is a name the backend knows, or a path to a GGUF file; ``None`` lets the backend choose. ``models_dir``
    is the data folder's ``models/llm``. With ``vision`` only a model that can see will do. ``threads`` bounds the
    processor threads of an embedded model.
    """

    model: str | None = None
    ollama_host: str = "http://localhost:11434"
    models_dir: str | None = None
    vision: bool = False
    threads: int | None = None
    allow_download: bool = False


def names_a_file(model: str | None) -> bool:
    """Whether the model asked for is a GGUF file rather than a name a server knows."""
    return model is not None and model.lower().endswith(".gguf")


def written(text: str) -> str:
    """What a model wrote, without what no message may hold: NUL characters and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


class ChatBackend(Protocol):
    def __init__(self, options: ChatOptions) -> None: ...

    async def start(self) -> None:
        """Begin whatever must be begun (a child process, a first probe). Returns at once; never raises."""

    def status(self) -> BackendStatus:
        """What is known now, without asking anybody: answers in microseconds."""

    async def refresh(self) -> None:
        """Look again whether the backend is there; never raises. Called now and then, not on every request."""

    def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        """The answer, piece by piece; the last piece has ``done``. Waits while the model is loading.

        Raises ``Unavailable`` when no model can answer, ``InvalidRequest`` when the conversation is longer than the
        model can read, and ``EngineFailed`` when the model fails at it. Closing the iterator early
        (``contextlib.aclosing``) stops the generation.
        """

    async def close(self) -> None:
        """End what ``start`` began; no process is left."""
