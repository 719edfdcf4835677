"""The composition root: settings in, a studio or a server out. The only place that wires parts together."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from illustrious import __version__
from illustrious.api import docs, errors, health, jobs, metrics, models, studio, workers
from illustrious.api import gallery as gallery_routes
from illustrious.api.auth import BodyLimit, HostGuard, KeyGuard, is_loopback, key_digest, stored_key
from illustrious.api.request_id import RequestId
from illustrious.catalog.hashes import Hashes
from illustrious.catalog.identities import Identities
from illustrious.catalog.library import STARTER, Entry, Library, no_hashes
from illustrious.chat import ChatBackend, ChatOptions
from illustrious.chat.echo import EchoChat
from illustrious.chat.llamacpp import LlamaCppChat
from illustrious.chat.ollama import OllamaChat
from illustrious.chat.preferred import PreferredChat
from illustrious.chat.sessions import Sessions
from illustrious.database import Database
from illustrious.drawing import Drawing
from illustrious.errors import CannotStart
from illustrious.gallery.store import Gallery
from illustrious.images import EngineOptions
from illustrious.images.process import ImageWorker
from illustrious.jobs import Job
from illustrious.jobs.events import EventLog
from illustrious.jobs.runner import Runner
from illustrious.jobs.store import JobStore
from illustrious.journal import Journal
from illustrious.metrics import Metrics
from illustrious.service import Limits, Studio
from illustrious.settings import Settings
from illustrious.system import hold_folder
from illustrious.vision import Analyzer, VisionOptions
from illustrious.vision.chat import ChatAnalyzer
from illustrious.vision.palette import PaletteAnalyzer
from illustrious.vision.preferred import PreferredAnalyzer
from illustrious.vision.starter import StarterAnalyzer
from illustrious.writer import Writer

KEY_FILE = "api-key.sha256"
IDENTITIES = "identities.json"
HOUR, DAY = 3600.0, 86400.0


def build_studio(settings: Settings, database: Database) -> Studio:
    """The studio these settings describe, not yet started."""
    measured, journal = Metrics(), Journal(settings.log_prompts)

    def changed(job: Job) -> None:
        measured.changed(job)
        journal.changed(job)

    hashes = Hashes(settings.data_dir / "hashes.json")
    library = build_library(settings, hashes.spellings)
    default = library.default()
    gallery = Gallery(database, settings.data_dir)
    writer = Writer(database)
    workers = [
        ImageWorker(
            "fake" if settings.fake else "sdxl",
            EngineOptions(
                model=None if settings.fake or default == STARTER else str(default.path),
                models_dirs=tuple(map(str, library.roots)),
                identities=str(settings.data_dir / IDENTITIES),
                device=device,
                max_pixels=settings.max_pixels,
                threads=settings.threads,
                preview_every=settings.preview_every,
                warm_up=settings.warm_up,
            ),
            name=f"image-{number}",
            environment={
                "TORCHINDUCTOR_CACHE_DIR": str(settings.data_dir / "cache" / "compiled"),
                **({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"} if settings.allow_download else {}),
            },
        )
        for number, device in enumerate(settings.devices or (None,))
    ]
    return Studio(
        workers=workers,
        runner=Runner(
            JobStore(
                database,
                writer,
                key_retention=settings.key_hours * HOUR,
                job_retention=None if settings.job_days is None else settings.job_days * DAY,
            ),
            EventLog(linger=settings.event_minutes * 60, max_preview_bytes=settings.preview_mb * 1_000_000),
            [Drawing(worker, gallery, library, hashes, measured.stepped) for worker in workers],
            queue_limit=settings.queue_limit,
            on_change=changed,
        ),
        writer=writer,
        library=library,
        hashes=hashes,
        chat=build_chat(settings),
        vision=_vision(settings),
        sessions=Sessions(database),
        gallery=gallery,
        metrics=measured,
        journal=journal,
        back_up=partial(database.back_up, DAY),
        trash_days=settings.trash_days,
        system_prompt=settings.system_prompt,
        limits=Limits(pixels=settings.max_pixels, image_bytes=settings.max_image_mb * 1_000_000),
    )


def build_library(settings: Settings, hashes: Callable[[Entry], Iterable[str]] = no_hashes) -> Library:
    """The models in the data folder and in the folders of the settings. Fakes draw with a model of their own."""
    roots: list[str | Path] = [settings.data_dir / "models", *settings.models_dirs]
    identities = Identities(settings.data_dir / IDENTITIES)
    if settings.fake:
        return Library(roots, "fake", replace(STARTER, name="fake"), hashes, others=(), identities=identities)
    return Library(roots, settings.model, hashes=hashes, identities=identities)


def build_chat(settings: Settings) -> ChatBackend:
    options = ChatOptions(
        model=settings.chat_model,
        ollama_host=settings.ollama_host,
        models_dir=str(settings.data_dir / "models" / "llm"),
        threads=settings.threads,
        allow_download=settings.allow_download,
    )
    if settings.fake:
        return EchoChat(options)
    if settings.chat_model and settings.chat_model.endswith(".gguf"):
        return LlamaCppChat(options)
    return PreferredChat([OllamaChat(options), LlamaCppChat(options)])


def _vision(settings: Settings) -> Analyzer:
    options = VisionOptions(max_pixels=settings.max_pixels, threads=settings.threads)
    if settings.fake:
        return PaletteAnalyzer(options)
    seeing = OllamaChat(ChatOptions(model=settings.vision_model, ollama_host=settings.ollama_host, vision=True))
    return PreferredAnalyzer([ChatAnalyzer(seeing, options), StarterAnalyzer(options)])


def api_key_digest(settings: Settings) -> tuple[str | None, str | None]:
    """The digest of the key to ask for (``None``: ask for none), and the key itself if it was made just now."""
    if settings.api_key is not None:
        return key_digest(settings.api_key.get_secret_value()), None
    if not settings.auth or is_loopback(settings.host):
        return None, None
    return stored_key(settings.data_dir / KEY_FILE)


@contextmanager
def open_studio(settings: Settings) -> Iterator[Studio]:
    """The studio on its data folder, held for this process alone, not yet started. Raises ``CannotStart``."""
    lock = hold_folder(settings.data_dir)
    try:
        url = settings.database.get_secret_value() if settings.database else None
        database = Database.open(url or settings.data_dir / "studio.db")
        try:
            with database.held():
                yield build_studio(settings, database)
        finally:
            database.close()
    finally:
        lock.release()


def create_app(settings: Settings, the_studio: Studio, key: str | None = None) -> FastAPI:
    """The server around a studio, which it starts and closes. ``key`` is the digest of the API key to ask for;
    ``None`` asks for none, which is refused on an address others can reach unless the settings say so."""
    if key is None and settings.auth and not is_loopback(settings.host):
        raise CannotStart(f"On {settings.host} an API key is needed; use 127.0.0.1, or say --no-auth if you mean it.")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await the_studio.start()
        try:
            yield
        finally:
            await the_studio.close()

    guards = [
        Middleware(RequestId),
        Middleware(HostGuard, allowed=settings.allowed_hosts, origins=settings.cors_origins),
    ]
    if settings.cors_origins:
        guards.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["*"],
            )
        )
    if key is not None:
        guards.append(Middleware(KeyGuard, digest=key))
    guards.append(Middleware(BodyLimit, limit=settings.max_image_mb * 1_000_000 * 4 // 3 + 1_000_000))
    app = FastAPI(
        title="Illustrious AI Studio",
        redirect_slashes=False,  # else the answer to a stray slash is a redirect without JSON
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=guards,
    )
    app.state.studio = the_studio
    errors.install(app)
    for part in (studio, jobs, gallery_routes, models, workers, health, metrics, docs):
        app.include_router(part.router)
    return app
