"""The nouns. Frozen values that every part shares; what crosses a process or a network is their JSON."""

import base64
import binascii
import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

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


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"this is no base64: {error}") from error


Blob = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), when_used="json"),
]
"""The bytes of a picture's file; base64 in JSON, with or without a ``data:`` prefix."""


Speed = Literal["exact", "balanced", "fast"]
"""How a picture is drawn: to the bit as its request says; as quickly as nobody sees; with less work than that."""


class Noun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Lora(Noun):
    """A LoRA by name. ``weight`` acts on the UNet, ``text_weight`` on the text encoders; unset, it is the same."""

    name: Annotated[Text, Field(min_length=1, max_length=500)]
    weight: Annotated[float, Field(ge=-10.0, le=10.0)] = 1.0
    text_weight: Annotated[float, Field(ge=-10.0, le=10.0)] | None = None


class Control(Noun):
    """A ControlNet by name, and the picture it follows, from ``start`` to ``end`` of the steps (0 … 1)."""

    model: Annotated[Text, Field(min_length=1, max_length=500)]
    image: Blob
    weight: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    end: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0


class Hires(Noun):
    """A second pass over the enlarged picture. ``width``/``height`` in pixels go before ``scale``.

    ``upscaler`` is ``latent`` (and its kinds), or the name of an upscaler model. ``steps`` unset: those of the first
    pass. ``strength`` is how much is drawn anew, 0 … 1.
    """

    scale: Annotated[float, Field(ge=1.0, le=4.0)] = 2.0
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    upscaler: Text = "latent"
    steps: Annotated[int, Field(ge=1, le=150)] | None = None
    strength: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6


class Outpaint(Noun):
    """How far the picture grows on each side, in pixels."""

    left: Annotated[int, Field(ge=0, le=2048, multiple_of=8)] = 0
    right: Annotated[int, Field(ge=0, le=2048, multiple_of=8)] = 0
    top: Annotated[int, Field(ge=0, le=2048, multiple_of=8)] = 0
    bottom: Annotated[int, Field(ge=0, le=2048, multiple_of=8)] = 0


class ImageRequest(Noun):
    """Pictures to draw, all alike but for the seed.

    ``None`` stands for what the model's family is best drawn with (``width``/``height``: its native size in pixels).
    ``seed`` −1 asks for a random one; ``service.Studio`` draws it before anything else sees the request. ``count``
    pictures take ``seed``, ``seed`` + 1, … ``guidance`` up to 1 means no guidance.

    ``prompt_syntax`` ``a1111`` reads weights, ``BREAK``, ``<lora:…>``, wildcards and the like; ``verbatim`` takes every
    character as it stands. ``prompt_prefix`` goes before the prompt (quality words).

    ``speed`` ``exact``: the pixels depend on the request alone, whatever is drawn beside it; ``balanced`` may differ
    from that by what nobody sees, ``fast`` by details, as it leaves out part of the work. ``exact`` says the same in
    one bit: unset, it follows ``speed``; alone, ``false`` is ``balanced``.

    ``init_image`` is what to start from, ``strength`` how much of it is drawn anew (0 … 1), ``fit`` what happens when
    its shape is not that of the picture. ``mask`` says where: white is drawn anew, black is kept; ``mask_blur`` in
    pixels; ``mask_fill`` is what lies under the mask at the start; ``only_masked`` draws the masked region alone, at
    full size, with ``mask_padding`` pixels around it.
    """

    prompt: Text = ""
    negative_prompt: Text = ""
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    steps: Annotated[int, Field(ge=1, le=150)] = 30
    guidance: Annotated[float, Field(ge=0.0, le=30.0)] = 7.5
    seed: Annotated[int, Field(ge=-1, le=SEED_LIMIT)] = -1
    count: Annotated[int, Field(ge=1, le=64)] = 1
    prompt_prefix: Text | None = None
    prompt_syntax: Literal["a1111", "verbatim"] = "a1111"
    sampler: Annotated[Text, Field(max_length=100)] | None = None
    schedule: Annotated[Text, Field(max_length=100)] | None = None
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None
    guidance_rescale: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    tiling: Literal["none", "x", "y", "both"] = "none"
    speed: Speed = "exact"
    exact: bool = True
    model: Annotated[Text, Field(max_length=500)] | None = None
    vae: Annotated[Text, Field(max_length=500)] | None = None
    loras: Annotated[tuple[Lora, ...], Field(max_length=32)] = ()
    init_image: Blob | None = None
    strength: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75
    fit: Literal["stretch", "crop", "pad"] = "crop"
    mask: Blob | None = None
    mask_invert: bool = False
    mask_blur: Annotated[int, Field(ge=0, le=256)] = 4
    mask_fill: Literal["original", "fill", "noise", "empty"] = "original"
    only_masked: bool = False
    mask_padding: Annotated[int, Field(ge=0, le=1024)] = 32
    outpaint: Outpaint | None = None
    control: Annotated[tuple[Control, ...], Field(max_length=8)] = ()
    hires: Hires | None = None

    @model_validator(mode="after")
    def _one_knob(self) -> Self:
        """Whichever of ``speed`` and ``exact`` is unset follows the other."""
        if self.exact is not (self.speed == "exact"):
            if {"exact", "speed"} <= self.model_fields_set:
                raise ValueError(
                    f"exact is {str(self.exact).lower()} and speed is {self.speed}, which contradict each other; "
                    "leave exact out"
                )
            follows = {"exact": False} if "speed" in self.model_fields_set else {"speed": "balanced"}
            self.__dict__.update(follows)  # frozen from here on
        return self


def singles(request: ImageRequest) -> tuple[ImageRequest, ...]:
    """A request for each of the pictures asked for: ``seed``, ``seed`` + 1, … (after the largest seed comes 0)."""
    return tuple(
        request.model_copy(update={"seed": (request.seed + number) % (SEED_LIMIT + 1), "count": 1})
        for number in range(request.count)
    )


def digest_of(picture: bytes) -> str:
    """The name of a picture that was sent in: what its file's bytes are."""
    return f"sha256:{hashlib.sha256(picture).hexdigest()}"


def told(request: ImageRequest) -> dict[str, Any]:
    """The request as JSON for people and metadata: what differs from the defaults beside the basics, and each picture
    sent in by its digest."""
    basic = ("prompt", "negative_prompt", "width", "height", "steps", "guidance", "seed")
    plain = ImageRequest.model_fields
    body = request.model_dump(mode="python")
    for holder in (body, *body["control"]):
        for name in ("init_image", "mask", "image"):
            if isinstance(holder.get(name), bytes):
                holder[name] = digest_of(holder[name])
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in body.items()
        if name in basic or value != plain[name].get_default()
    }


class ImageResult(Noun):
    """One finished picture: PNG bytes, and every parameter as finally used."""

    image: bytes
    request: ImageRequest
    model: str
    sampler: str
    schedule: str | None = None
    model_hash: str | None = None
    lora_hashes: dict[str, str] = Field(default_factory=dict)
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
    """What one backend can do now. ``reason`` says why not, with the remedy, when not available. ``progress`` is how
    far it has loaded, 0 … 1, where that is known. ``warnings`` are what went wrong and costs time, no answer."""

    name: str
    available: bool
    loading: bool = False
    progress: float | None = None
    model: str | None = None
    device: str | None = None
    note: str | None = None
    reason: str | None = None
    context_length: int | None = None
    vision: bool = False
    pid: int | None = None
    warnings: tuple[str, ...] = ()


class WorkerProcess(Noun):
    """A child process. Memory in bytes, ``vram`` that of its GPU; ``progress`` of its loading, 0 … 1."""

    id: str
    kind: Literal["image", "chat", "vision"]
    pid: int | None
    device: str | None
    state: str
    model: str | None
    progress: float | None = None
    rss: int
    vram: int = 0
    restarts: int = 0
