"""The image engine protocol: commands in, events out, one long-lived generator per device.

An engine looks at its inbox between denoising steps and knows nothing of HTTP, jobs or files. The same generator runs
in a test, a thread or a child process (``images/process.py``), because commands and events are plain values: JSON,
and the raw bytes of pictures.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field

from illustrious.catalog.library import Library
from illustrious.types import ImageRequest, ImageResult, Noun


class EngineOptions(Noun):
    """What an engine is told at birth. ``model`` is a path (file or folder); ``None`` for the engine's own.

    ``models_dirs`` are the folders that requests name models, LoRAs and the like from. ``memory_limit`` in bytes is
    what it may take of the device, ``None`` for all there is. Every ``preview_every`` steps there is a preview, 0 for
    never. ``identities`` is the file in which the catalogue remembers what files are. ``warm_up``: compile beside as
    soon as the model is there, where the device gains by it, and not with the first picture that could use it.
    """

    model: str | None = None
    models_dirs: tuple[str, ...] = ()
    identities: str | None = None
    memory_limit: int | None = None
    preview_every: int = 5
    device: str | None = None
    max_pixels: int = 2048 * 2048
    threads: int | None = None
    warm_up: bool = True


class Admit(Noun):
    """Draw a request's pictures. ``caller`` is for whom: callers take turns, whatever each has asked for."""

    kind: Literal["admit"] = "admit"
    job_id: str
    request: ImageRequest
    caller: str = ""


class Cancel(Noun):
    kind: Literal["cancel"] = "cancel"
    job_id: str


class Stop(Noun):
    kind: Literal["stop"] = "stop"


class Loading(Noun):
    """``progress`` from 0 to 1."""

    kind: Literal["loading"] = "loading"
    progress: float


class Ready(Noun):
    """The model is in memory. ``width``/``height`` are its native size in pixels.

    ``note`` is what its user should know about the model, in plain words; ``versions`` those of the libraries that
    decide what a pixel is.
    """

    kind: Literal["ready"] = "ready"
    model: str
    family: str
    device: str
    backend: Literal["cuda", "rocm", "mps", "cpu"]
    dtype: str
    capacity: int = 1
    width: int
    height: int
    note: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class Held(Noun):
    """The models in memory, from now on: by the names that requests call them, and where each is. An engine with one
    model need not say so: it is the one of ``Ready``."""

    kind: Literal["held"] = "held"
    models: dict[str, str]


class Warned(Noun):
    """What its user should know of the models in memory, from now on: what went wrong and costs time, no picture. An
    engine with nothing to say need not say so."""

    kind: Literal["warned"] = "warned"
    warnings: tuple[str, ...]


class Unloadable(Noun):
    """The model cannot be loaded; ``reason`` is for the user. The engine ends after this."""

    kind: Literal["unloadable"] = "unloadable"
    reason: str


class Step(Noun):
    """Step ``step`` of ``steps``, over all of a job's pictures, is done. ``preview``: what the one that took it looks
    like so far, a small WebP file, now and then."""

    kind: Literal["step"] = "step"
    job_id: str
    step: int
    steps: int
    preview: bytes | None = None


class Done(Noun):
    """All pictures of a job, in the order of their seeds."""

    kind: Literal["done"] = "done"
    job_id: str
    results: tuple[ImageResult, ...]


class Failed(Noun):
    """One job failed; the engine goes on. ``error``: ``invalid``, ``cancelled`` or ``failed``. ``field`` names the part
    of the request that is wrong, of an invalid one."""

    kind: Literal["failed"] = "failed"
    job_id: str
    error: Literal["invalid", "cancelled", "failed"]
    message: str
    field: str | None = None


Command = Admit | Cancel | Stop
Event = Loading | Ready | Held | Warned | Unloadable | Step | Done | Failed


class Inbox(Protocol):
    def get(self, wait: bool) -> Command | None:
        """The next command. ``wait`` blocks until there is one; otherwise ``None`` when there is none now."""


class ImageEngine(Protocol):
    def __init__(self, options: EngineOptions) -> None: ...

    def check(self, request: ImageRequest, library: Library) -> tuple[str, ...]:
        """Before a request waits, where nothing is loaded and nothing is to be: warnings.

        Nothing is left open in the request. Raises ``InvalidRequest`` for what this engine could not draw.
        """

    def run(self, inbox: Inbox) -> Iterator[Event]:
        """Load, then serve until ``Stop``. First events: ``Loading``…, then ``Ready`` or ``Unloadable``."""
