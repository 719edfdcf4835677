"""The command line: parse, call, print."""

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from illustrious import __version__, system
from illustrious.client import ClientError, IllustriousAIClient, StudioUnreachable
from illustrious.errors import StudioError
from illustrious.settings import Effective, Settings, load

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Illustrious AI Studio")
models_app = typer.Typer(no_args_is_help=True, help="The models in the data folder.")
app.add_typer(models_app, name="models")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LAST_ANSWERS = 3
"""Seconds that answers under way may still take once the jobs are seen to, when the studio stops."""

Devices = Annotated[str | None, typer.Option("--devices", help="cuda:0,cuda:1: one image worker on each.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of pictures, models and sessions.")]
Model = Annotated[str | None, typer.Option("--model", help="Image model: a .safetensors file or a diffusers folder.")]
ModelsDirs = Annotated[
    list[str] | None,
    typer.Option("--models-dir", help="A further folder of models: the web UI's, ComfyUI's or your own. Repeatable."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address of the server.")]
Port = Annotated[int | None, typer.Option("--port", help="Port of the server.")]
Fake = Annotated[bool | None, typer.Option("--fake", help="Fake models that answer at once.")]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    model: Model = None,
    models_dirs: ModelsDirs = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser when it runs.")] = False,
    fake: Fake = None,
    devices: Devices = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask nobody for a key, on any address.")] = False,
) -> None:
    """Run the studio until Ctrl-C (the default)."""
    typed = {"host": host, "port": port, "data_dir": data_dir, "model": model, "fake": fake, "devices": devices}
    folders = {"models_dirs": tuple(models_dirs) if models_dirs else None}
    settings = load({**typed, **folders, "auth": False if no_auth else None}).settings

    import uvicorn

    from illustrious.app import api_key_digest, create_app, open_studio

    class Server(uvicorn.Server):
        up = asyncio.Event()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.up.set()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # First the jobs, so that who waits for one that can still end gets its picture; then the connections,
            # and at last, with the lifespan, the studio. A second Ctrl-C leaves the jobs for the next start.
            draining = asyncio.create_task(studio.drain(settings.shutdown_seconds))
            while not draining.done() and not self.force_exit:
                await asyncio.wait({draining}, timeout=0.1)
            if self.force_exit:
                await studio.drain(0)
            await draining
            self.force_exit = False  # the rest takes seconds, and leaves nothing behind
            await super().shutdown(sockets)

    listener = system.listen(settings.host, settings.port)
    with contextlib.closing(listener), open_studio(settings) as studio, log_into(settings.data_dir / "logs"):
        digest, new_key = api_key_digest(settings)
        server = Server(
            uvicorn.Config(
                create_app(settings, studio, digest),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=LAST_ANSWERS,
            )
        )
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listener.getsockname()[1]}"

        async def announce() -> None:
            await server.up.wait()
            out.print(f"🎨 Illustrious AI Studio {__version__} is at [bold]{url}[/bold] (API: {url}/docs)")
            out.print(f"   Data folder: {settings.data_dir}")
            if new_key:
                out.print(f"🔑 API key, shown this once: [bold]{new_key}[/bold]")
            elif digest is None and not settings.auth:
                out.print("⚠️  Nobody is asked for a key (--no-auth): whoever reaches this address can use the studio.")
            if open_browser:
                webbrowser.open(url)
            await show_loading(studio.workers[0])
            await asyncio.gather(studio.chat_backend.refresh(), studio.vision.refresh())
            print_backends({name: status.model_dump() for name, status in studio.backends().items()})
            for problem in await asyncio.to_thread(studio.library.problems):
                out.print(f" ⚠️  {problem}", markup=False)
            out.print("   Ctrl-C stops it.")

        async def run() -> None:
            announcing = asyncio.create_task(announce())
            try:
                await server.serve(sockets=[listener])
            finally:
                announcing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await announcing

        # The server closes on these signals and then raises them once more; by then there is nothing left to end.
        for stop in system.stop_signals():
            signal.signal(stop, signal.SIG_IGN)
        asyncio.run(run())
    out.print("Stopped.")


async def show_loading(worker: Any) -> None:
    """How far the image model has loaded, on a terminal, until it is there or it is known that it never will be."""
    loaded = asyncio.ensure_future(worker.wait_until_loaded())
    try:
        with out.status("Loading the image model …") as shown:
            while not (await asyncio.wait({loaded}, timeout=0.2))[0]:
                shown.update(f"Loading the image model … {worker.loading_progress or 0:.0%}")
    finally:
        loaded.cancel()
        await asyncio.gather(loaded, return_exceptions=True)  # what is wrong stands in the backend's reason


@contextlib.contextmanager
def log_into(folder: Path) -> Iterator[None]:
    """The studio's own log lines into files of 5 MB, of which five are kept."""
    folder.mkdir(exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / "studio.log", maxBytes=5_000_000, backupCount=4, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("illustrious")
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        handler.close()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("picture.png"),
    negative: Annotated[str, typer.Option("--negative", help="What not to draw.")] = "",
    steps: Annotated[int, typer.Option("--steps")] = 30,
    guidance: Annotated[float, typer.Option("--guidance")] = 7.5,
    seed: Annotated[int, typer.Option("--seed", help="-1 for a random one.")] = -1,
    width: Annotated[int | None, typer.Option("--width")] = None,
    height: Annotated[int | None, typer.Option("--height")] = None,
    speed: Annotated[
        Literal["exact", "balanced", "fast"], typer.Option("--speed", help="What the picture may give up for time.")
    ] = "exact",
    model: Model = None,
    models_dirs: ModelsDirs = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    fake: Fake = None,
) -> None:
    """Draw a picture into a file."""
    typed = {"host": host, "port": port, "data_dir": data_dir, "model": model, "fake": fake}
    typed["warm_up"] = False  # there is no second picture that would be faster
    settings = load({**typed, "models_dirs": tuple(models_dirs) if models_dirs else None}).settings
    wishes: dict[str, Any] = {"negative_prompt": negative, "steps": steps, "guidance": guidance, "seed": seed}
    wishes |= {"speed": speed} if speed != "exact" else {}
    wishes |= {name: value for name, value in (("width", width), ("height", height)) if value is not None}
    with running_studio(settings) as client:
        if client is not None:
            if model is not None or fake is not None:
                raise StudioError(
                    f"A studio runs at {address(settings)} with a model of its own. Leave --model and --fake out to "
                    "draw with that one, or stop it first."
                )
            with drawing_bar() as advance:
                while client.check_status()["backends"]["image"]["loading"]:
                    time.sleep(0.5)
                answer = client.draw(prompt, advance, **wishes)
            data, message, warnings = answer["image"], answer["message"], answer.get("warnings", [])
        else:
            data, message, warnings = asyncio.run(draw_here(settings, prompt, wishes))
    write(output, data)
    for warning in warnings:
        err.print(f"⚠️  {warning}", markup=False)
    out.print(f"{message} → {output}", markup=False)


@contextlib.contextmanager
def drawing_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar, and what to tell the steps; until the first of them it only moves."""
    columns = (SpinnerColumn(), TextColumn("Drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("draw", total=None)
        yield lambda step, steps: progress.update(task, completed=step, total=steps)


async def draw_here(settings: Settings, prompt: str, wishes: dict[str, Any]) -> tuple[bytes, str, tuple[str, ...]]:
    from pydantic import ValidationError

    from illustrious.service import Asker, Drawn, Studio
    from illustrious.types import ImageRequest

    try:
        request = ImageRequest(prompt=prompt, **wishes)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise StudioError(f"--{problem['loc'][0]}: {problem['msg']}") from error

    async def draw(studio: Studio) -> Drawn:
        with drawing_bar() as advance:

            async def follow(job_id: str) -> None:
                async for event in studio.runner.follow(job_id):
                    if event.name == "step":
                        advance(event.data["step"], event.data["steps"])

            following: list[asyncio.Task[None]] = []
            drawn = await studio.generate(
                request, Asker(owner="cli"), lambda job: following.append(asyncio.create_task(follow(job.id)))
            )
            for task_ in following:
                task_.cancel()
            return drawn

    picture: Drawn = await with_studio(settings, draw)
    return picture.image, f"✅ Image generated successfully! Seed: {picture.seed}", picture.warnings


async def with_studio(settings: Settings, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """A studio in this process, for one use."""
    from illustrious.app import open_studio

    with open_studio(settings) as studio:
        await studio.start(draw=False)
        try:
            return await use(studio)
        finally:
            await studio.close()


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="What to say; left out, a conversation begins.")] = None,
    session: Annotated[str, typer.Option("--session", help="Which conversation to go on with.")] = "cli",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=2.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 256,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    fake: Fake = None,
) -> None:
    """Talk to the studio. `#generate …` draws."""
    settings = load({"host": host, "port": port, "data_dir": data_dir, "fake": fake}).settings
    with running_studio(settings) as client:
        if client is not None:
            for line in said(message):
                answer = client.chat(line, session, temperature=temperature, max_tokens=max_tokens)
                out.print(answer["response"], markup=False)
                if url := answer.get("image_url"):
                    out.print(f"{address(settings)}{url}", markup=False)
            return

    async def talk(studio: Any) -> None:
        lines = said(message)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            reply = await studio.chat(session, line, temperature, max_tokens)
            out.print(reply.text, markup=False)
            if reply.picture:
                out.print(str(reply.picture.path), markup=False)

    asyncio.run(with_studio(settings, talk))


def said(message: str | None) -> Iterator[str]:
    """The one message, or the lines typed until the end of input."""
    if message is not None:
        yield message
        return
    if sys.stdin.isatty():
        err.print("Write, and press Enter; an empty line or Ctrl-D ends the conversation.")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


@app.command()
def analyze(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG, WebP or GIF file.", exists=True, dir_okay=False)],
    question: Annotated[str | None, typer.Argument(help="What to ask about it.")] = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    fake: Fake = None,
) -> None:
    """Say what is in a picture."""
    settings = load({"host": host, "port": port, "data_dir": data_dir, "fake": fake}).settings
    with running_studio(settings) as client:
        if client is not None:
            out.print(client.analyze_image(str(picture), question), markup=False)
            return

    async def look(studio: Any) -> None:
        from illustrious.types import AnalysisRequest

        request = AnalysisRequest(image=picture.read_bytes())
        if question:
            request = request.model_copy(update={"question": question})
        await asyncio.gather(studio.chat_backend.refresh(), studio.vision.refresh())
        out.print((await studio.analyze(request)).text, markup=False)

    asyncio.run(with_studio(settings, look))


@app.command()
def status(host: Host = None, port: Port = None) -> None:
    """What a running studio can do now."""
    settings = load({"host": host, "port": port}).settings
    with running_studio(settings) as client:
        if client is None:
            err.print(f"No studio answers at {address(settings)}. Start one: python main.py")
            raise typer.Exit(1)
        found = client.check_status()
        out.print(f"🎨 Illustrious AI Studio {found.get('version', '')} is at {address(settings)}")
        print_backends(found["backends"])


@app.command()
def config(data_dir: DataDir = None) -> None:
    """The settings in force, and where each came from."""
    effective: Effective = load({"data_dir": data_dir})
    table = Table("setting", "value", "from", box=None)
    for name in Settings.model_fields:
        value = getattr(effective.settings, name)
        shown = ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        table.add_row(name, shown, effective.origins[name])
    out.print(table)


@app.command()
def doctor(
    host: Host = None, port: Port = None, data_dir: DataDir = None, model: Model = None, models_dirs: ModelsDirs = None
) -> None:
    """Look for what keeps the studio from running well."""
    from illustrious.doctor import examine

    typed = {"host": host, "port": port, "data_dir": data_dir, "model": model}
    settings = load({**typed, "models_dirs": tuple(models_dirs) if models_dirs else None}).settings
    findings = asyncio.run(examine(settings))
    marks = {"good": "✅", "poor": "⚠️ ", "bad": "❌"}
    for finding in findings:
        out.print(f"{marks[finding.verdict]} {finding.subject}: {finding.text}", markup=False)
    raise typer.Exit(1 if any(finding.verdict == "bad" for finding in findings) else 0)


@models_app.command("add")
def models_add(
    what: Annotated[str, typer.Argument(help="A model file or folder, or starter-chat.")], data_dir: DataDir = None
) -> None:
    """Put a model where the studio finds it."""
    from illustrious.catalog.add import add

    settings = load({"data_dir": data_dir}).settings
    out.print(f"✅ {add(what, settings.data_dir / 'models')}", markup=False)


@models_app.command("list")
def models_list(data_dir: DataDir = None, model: Model = None, models_dirs: ModelsDirs = None) -> None:
    """The models in all folders, by the names that requests call them."""
    from illustrious.app import build_library
    from illustrious.catalog.cards import ADAPTERS, adapters, checkpoints
    from illustrious.catalog.hashes import Hashes

    typed = {"data_dir": data_dir, "model": model}
    settings = load({**typed, "models_dirs": tuple(models_dirs) if models_dirs else None}).settings
    hashes = Hashes(settings.data_dir / "hashes.json")
    library = build_library(settings, hashes.spellings)
    table = Table("kind", "name", "family", "size", "hash", "", box=None)
    for card in checkpoints(library, hashes):
        size = f"{card.width}×{card.height}" if card.width else ""
        note = "default" if card.default else ""
        table.add_row("image", card.id, card.family or card.base, size, card.hash, card.problem or note)
    for kind in ADAPTERS:
        for found in adapters(kind, library, hashes):
            table.add_row(kind, found.id, found.base, "", found.hash, found.problem)
    library.identities.keep()
    out.print(table)
    for problem in library.problems():
        out.print(f"⚠️  {problem}", markup=False)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole suite: style, types, arrows, tests. Further arguments go to pytest (-n 0: in one process)."""
    root = Path.cwd()
    if not (root / "tests").is_dir():
        raise StudioError("The tests are part of the source tree: run `python main.py test` there.")
    checks = [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "mypy"],
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        # A process for each core, of which each keeps to one: threads of several that wait for each other stand still.
        [sys.executable, "-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", *context.args],
    ]
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **os.environ}
    failed = [check for check in checks if subprocess.run(check, cwd=root, env=environment).returncode]
    for check in failed:
        err.print(f"failed: {' '.join(check[1:])}", markup=False)
    raise typer.Exit(1 if failed else 0)


def address(settings: Settings) -> str:
    """Where the configured server is to be found from this computer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


@contextlib.contextmanager
def running_studio(settings: Settings) -> Iterator[IllustriousAIClient | None]:
    """A client of the studio that answers at the configured address, or ``None``."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with IllustriousAIClient(address(settings), api_key=key) as client:
        try:
            found = client.check_status()
        except StudioUnreachable:
            found = None
        yield client if found and "models" in found else None


def print_backends(backends: dict[str, dict[str, Any]]) -> None:
    for name, found in backends.items():
        if found["available"]:
            backend, device = found["name"], found["device"] or ""
            if device and not device.startswith(backend):  # "ollama at …" says both
                device = f"{backend} on {device}"
            out.print(f" ✅ {name:<7} {found['model'] or backend} ({device or backend})", markup=False)
            if found.get("note"):
                out.print(f"            {found['note']}", markup=False)
            for warning in found.get("warnings", ()):
                out.print(f"         ⚠️  {warning}", markup=False)
        elif found["loading"]:
            progress = found.get("progress")
            out.print(f" ⏳ {name:<7} is loading{'' if progress is None else f', {progress:.0%}'}", markup=False)
        else:
            out.print(f" ❌ {name:<7} {found.get('reason') or 'is not there'}", markup=False)


def write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StudioError(f"{path} cannot be written: {error.strerror}. Choose another file with -o.") from error


def main() -> None:
    system.speak_any_character(sys.stdout, sys.stderr)
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["serve", *arguments]
    try:
        app(arguments)
    except (StudioError, ClientError) as error:
        err.print(f"❌ {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
