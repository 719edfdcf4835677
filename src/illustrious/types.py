"""The nouns. Frozen values that every part shares; what crosses a process or a network is their JSON."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SEED_LIMIT = 2**53 - 1
"""Largest seed: the largest integer that JSON readers in every language keep exact."""


def writable(text: str) -> str:
    """The text, if it can be written down anywhere. Raises ``ValueError``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no character; send the text as UTF-8") from error
    if "\0" in text:
        raise ValueError("the text holds a NUL character; leave it out")
    return text


Text = Annotated[str, AfterValidator(writable)]
"""Text that can be written to a file, a database and a model: JSON can say more than that."""


class Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageRequest(Noun):
    """One picture to draw. ``width``/``height`` in pixels, ``None`` for the model's native size.

    ``seed`` −1 asks for a random one; ``service.Studio`` draws it before anything else sees the request.
    ``guidance`` 1 means no guidance.
    """

    prompt: Text = ""
    negative_prompt: Text = ""
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    steps: Annotated[int, Field(ge=1, le=150)] = 30
    guidance: Annotated[float, Field(ge=0.0, le=30.0)] = 7.5
    seed: Annotated[int, Field(ge=-1, le=SEED_LIMIT)] = -1


class ImageResult(Noun):
    """One finished picture: PNG bytes, and every parameter as finally used."""

    image: bytes
    request: ImageRequest
    model: str
    sampler: str
    warnings: tuple[str, ...] = ()


class Progress(Noun):
    """Where a picture stands: ``step`` of ``steps`` denoising steps done."""

    step: int
    steps: int


class ChatMessage(Noun):
    role: Literal["system", "user", "assistant"]
    content: Text
    images: tuple[bytes, ...] = ()


class ChatRequest(Noun):
    """A conversation to continue. The last message is the user's."""

    messages: tuple[ChatMessage, ...]
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    max_tokens: Annotated[int, Field(ge=1)] = 256


class ChatDelta(Noun):
    """A piece of an answer, in order. The last one has ``done``: ``stop`` or ``length``."""

    text: str = ""
    done: Literal["stop", "length"] | None = None


class AnalysisRequest(Noun):
    """A picture (encoded bytes: PNG, JPEG, WebP or GIF, already checked) and what to say about it."""

    image: bytes
    question: Text = "Describe this image in detail"


class Analysis(Noun):
    text: str
    model: str


class BackendStatus(Noun):
    """What one backend can do now. ``reason`` says why not, with the remedy, when not available."""

    name: str
    available: bool
    loading: bool = False
    model: str | None = None
    device: str | None = None
    note: str | None = None
    reason: str | None = None
    context_length: int | None = None
    vision: bool = False
    pid: int | None = None


class WorkerProcess(Noun):
    """A child process. Memory in bytes, ``vram`` that of its GPU."""

    id: str
    kind: Literal["image", "chat", "vision"]
    pid: int | None
    device: str | None
    state: str
    model: str | None
    rss: int
    vram: int = 0
    restarts: int = 0
