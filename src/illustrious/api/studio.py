"""The founding contract: /status, /generate-image, /chat, /analyze-image. Frozen; fields are only ever added."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from illustrious import __version__
from illustrious.api import TheAsker, TheStudio, tell
from illustrious.errors import Cancelled, EngineFailed, InvalidRequest, StorageFailed, Unavailable
from illustrious.jobs import Job
from illustrious.pictures import decode_base64
from illustrious.service import Drawn, Studio, drawing_prompt
from illustrious.types import AnalysisRequest, BackendStatus, ImageRequest, Speed, Text, writable

router = APIRouter(tags=["studio"])

NO_IMAGE_MODEL = "❌ SDXL model not loaded. Please check your model path."
NO_CHAT_MODEL = "❌ Ollama model not available."
NO_VISION_MODEL = "❌ Vision model not available."
GENERATION_FAILED = "❌ Generation failed:"
CHAT_FAILED = "❌ Chat completion failed:"
ANALYSIS_FAILED = "❌ Analysis failed:"


class Body(BaseModel):
    """Unknown fields are kept, to be named in ``warnings``; no number may be NaN or infinite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def unknown_fields(self) -> list[str]:
        return [f"Unknown field {name!r} was ignored." for name in self.model_extra or {}]


class Models(BaseModel):
    sdxl: bool = Field(description="An image model is loaded.")
    ollama: bool = Field(description="Chat can answer, whichever backend serves it.")
    multimodal: bool = Field(description="Pictures can be analyzed, by a vision model or by basic analysis.")


class Status(BaseModel):
    status: str = "running"
    models: Models
    gpu_available: bool
    gpu_backend: str = Field(description="cuda, rocm, mps or cpu; cpu until the image engine has found better.")
    backends: dict[str, BackendStatus] = Field(description="What serves image, chat and vision, and why not if not.")
    version: str = __version__


class ImageBody(ImageRequest):
    """An image request with every field a caller may leave out; unknown ones are kept, to be named in ``warnings``."""

    model_config = ConfigDict(extra="allow")

    prompt: Text

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("The prompt is blank; say what to draw.")
        return value

    def unknown_fields(self) -> list[str]:
        return [f"Unknown field {name!r} was ignored." for name in self.model_extra or {}]


class GenerateImageBody(ImageBody):
    """The founding fields with their narrow ranges and defaults; the prompt is taken as it stands."""

    steps: Annotated[int, Field(ge=10, le=100)] = 30
    guidance: Annotated[float, Field(ge=1.0, le=20.0)] = 7.5
    prompt_syntax: Literal["a1111", "verbatim"] = "verbatim"

    def settled(self) -> dict[str, Any]:
        """What the contract sets where the caller does not."""
        names = ("negative_prompt", "steps", "guidance", "prompt_syntax")
        return {**{name: getattr(self, name) for name in names}, "prompt_prefix": self.prompt_prefix or ""}


class JobImage(BaseModel):
    id: str
    url: str = Field(description="Relative to the server.")
    seed: int


class GenerateImageAnswer(BaseModel):
    success: bool = True
    image_base64: str = Field(description="The PNG file.")
    message: str
    seed: int
    width: int
    height: int
    model: str
    speed: Speed = Field(description="How it was drawn.")
    image_id: str
    image_url: str
    images: list[JobImage] = Field(description="Every picture, when `count` asked for several; this is the first.")
    warnings: list[str] = []


class ChatBody(Body):
    message: Text
    session_id: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(writable)] = "default"
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    max_tokens: Annotated[int, Field(ge=1)] = 256


class ChatAnswer(BaseModel):
    response: str
    session_id: str
    image_base64: str | None = None
    image_url: str | None = None
    warnings: list[str] = []


class AnalyzeBody(Body):
    image_base64: str
    question: Text = "Describe this image in detail"


class AnalyzeAnswer(BaseModel):
    analysis: str
    model: str
    warnings: list[str] = []


@router.get("/status")
async def status(studio: TheStudio) -> Status:
    backends = studio.backends()
    ready = studio.ready
    return Status(
        models=Models(
            sdxl=backends["image"].available,
            ollama=backends["chat"].available,
            multimodal=backends["vision"].available,
        ),
        gpu_available=ready is not None and ready.backend != "cpu",
        gpu_backend=ready.backend if ready else "cpu",
        backends=backends,
    )


@router.post("/generate-image")
async def generate_image(
    body: GenerateImageBody,
    request: Request,
    response: Response,
    asker: TheAsker,
    studio: TheStudio,
    x_cancel_on_disconnect: Annotated[bool, Header(description="Stop drawing when the caller hangs up.")] = False,
) -> GenerateImageAnswer:
    asker = asker.model_copy(update={"fingerprint": fingerprint(body)})
    accepted: asyncio.Future[Job] = asyncio.get_running_loop().create_future()

    def on_job(job: Job) -> None:
        tell(job, request, response)
        accepted.set_result(job)

    drawing = studio.generate(image_request(body, **body.settled()), asker, on_job)
    try:
        if x_cancel_on_disconnect:
            picture = await unless_gone(request, studio, drawing, accepted)
        else:
            picture = await drawing
    except Unavailable as error:
        raise Unavailable(f"{NO_IMAGE_MODEL} {error}") from error
    except (EngineFailed, StorageFailed, Cancelled) as error:
        raise EngineFailed(f"{GENERATION_FAILED} {error}") from error
    return GenerateImageAnswer(
        image_base64=await in_base64(picture),
        message=f"✅ Image generated successfully! Seed: {picture.seed}",
        seed=picture.seed,
        width=picture.width,
        height=picture.height,
        model=picture.model,
        speed=picture.speed,
        image_id=picture.id,
        image_url=picture.url,
        images=[JobImage(id=saved.id, url=saved.url, seed=saved.seed) for saved in picture.all],
        warnings=[*body.unknown_fields(), *picture.warnings],
    )


def image_request(body: ImageBody, **settled: Any) -> ImageRequest:
    """The noun; its ``model_fields_set`` tells what the caller or the contract said, and what is left to the model."""
    said = {name: getattr(body, name) for name in body.model_fields_set if name in ImageRequest.model_fields}
    return ImageRequest(**(said | settled))


def fingerprint(body: BaseModel) -> str:
    """What was sent, before a seed was drawn for it: tells two bodies under one ``Idempotency-Key`` apart."""
    return hashlib.sha256(json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


async def unless_gone(
    request: Request, studio: Studio, drawing: Coroutine[Any, Any, Drawn], accepted: asyncio.Future[Job]
) -> Drawn:
    """The picture; or, once the caller has hung up, the end of its job: also of one that is only being taken in."""
    waiting = asyncio.ensure_future(drawing)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            either: set[asyncio.Future[Any]] = {waiting, accepted}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await studio.cancel(accepted.result().id)
        return await waiting
    finally:
        gone.cancel()
        waiting.cancel()


async def until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/chat", response_model_exclude_none=True)
async def chat(body: ChatBody, request: Request, response: Response, asker: TheAsker, studio: TheStudio) -> ChatAnswer:
    unavailable, failed = (
        (NO_IMAGE_MODEL, GENERATION_FAILED) if drawing_prompt(body.message) else (NO_CHAT_MODEL, CHAT_FAILED)
    )
    try:
        reply = await studio.chat(
            body.session_id,
            body.message,
            body.temperature,
            body.max_tokens,
            asker.model_copy(update={"fingerprint": fingerprint(body)}),
            lambda job: tell(job, request, response),
        )
    except Unavailable as error:
        raise Unavailable(f"{unavailable} {error}") from error
    except (EngineFailed, StorageFailed, Cancelled) as error:
        raise EngineFailed(f"{failed} {error}") from error
    return ChatAnswer(
        response=reply.text,
        session_id=body.session_id,
        image_base64=await in_base64(reply.picture) if reply.picture else None,
        image_url=reply.picture.url if reply.picture else None,
        warnings=[*body.unknown_fields(), *(reply.picture.warnings if reply.picture else ())],
    )


@router.post("/analyze-image")
async def analyze_image(body: AnalyzeBody, studio: TheStudio) -> AnalyzeAnswer:
    try:
        image = await asyncio.to_thread(decode_base64, body.image_base64, studio.limits.image_bytes)
        analysis = await studio.analyze(AnalysisRequest(image=image, question=body.question))
    except Unavailable as error:
        raise Unavailable(f"{NO_VISION_MODEL} {error}") from error
    except InvalidRequest as error:
        raise InvalidRequest(str(error), field="image_base64") from error
    except EngineFailed as error:
        raise EngineFailed(f"{ANALYSIS_FAILED} {error}") from error
    return AnalyzeAnswer(analysis=analysis.text, model=analysis.model, warnings=body.unknown_fields())


async def in_base64(picture: Drawn) -> str:
    encoded = await asyncio.to_thread(base64.b64encode, picture.image)
    return encoded.decode("ascii")
