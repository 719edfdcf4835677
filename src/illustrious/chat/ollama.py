"""Chat through an Ollama server, by its official client.

What Ollama can do is learnt from ``/api/tags`` and, once per model digest, ``/api/show``; both only in ``refresh``.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import httpx
import ollama

from illustrious.chat import ChatOptions, names_a_file, written
from illustrious.errors import EngineFailed, Unavailable
from illustrious.registry import registered
from illustrious.types import BackendStatus, ChatDelta, ChatRequest

CONTEXT_LIMIT = 8192
"""Tokens of context asked of Ollama (``num_ctx``), or fewer where the model was trained with fewer.

Ollama's own default (2,048 or 4,096, by version) silently cuts the oldest part of a longer conversation off, and a
model's full length (often 131,072) takes tens of gigabytes. 8,192 is some 6,000 words, and about 1 GB for an 8B model.
"""

PROBE_TIMEOUT = 5.0
"""Seconds for one look at the server."""

EXAMPLE_MODEL = "llama3.2"
EXAMPLE_VISION_MODEL = "llama3.2-vision"


@dataclass(frozen=True)
class OllamaModel:
    """One installed model, as far as Ollama tells."""

    name: str
    completion: bool
    vision: bool
    thinking: bool
    context_length: int | None

    def can_serve(self, vision: bool) -> bool:
        return self.completion and (self.vision or not vision)


def describe(name: str, families: tuple[str, ...], shown: ollama.ShowResponse) -> OllamaModel:
    """What ``/api/show`` says of a model.

    Servers since 0.6.4 list ``capabilities``. Older ones are read by what they do tell: a projector layer adds its
    architecture (``clip``, ``mllama``) to the model's families and a built-in one has ``<architecture>.vision.*``
    keys; embedding models are BERT-like or have ``<architecture>.pooling_type``.
    """
    facts: Mapping[str, Any] = shown.modelinfo or {}
    architecture = str(facts.get("general.architecture", ""))
    length = facts.get(f"{architecture}.context_length")
    if shown.capabilities is not None:
        completion, vision = "completion" in shown.capabilities, "vision" in shown.capabilities
    else:
        completion = "bert" not in architecture and f"{architecture}.pooling_type" not in facts
        vision = bool({"clip", "mllama"} & set(families)) or any(".vision." in key for key in facts)
    return OllamaModel(
        name=name,
        completion=completion,
        vision=vision,
        thinking="thinking" in (shown.capabilities or ()),
        context_length=int(length) if isinstance(length, int) else None,
    )


@registered("ollama")
class OllamaChat:
    def __init__(self, options: ChatOptions) -> None:
        self._wanted = options.model
        self._vision = options.vision
        self._host = options.ollama_host
        # The server is on this machine or its network, so the environment's proxies are not for it. An answer may
        # take any time (the model loads first); only connecting is bounded.
        self._client = ollama.AsyncClient(
            self._host, timeout=httpx.Timeout(None, connect=PROBE_TIMEOUT), trust_env=False
        )
        self._known: dict[tuple[str, str], OllamaModel] = {}
        self._model: OllamaModel | None = None
        self._reason: str | None = None
        self._look: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._begin_look()

    def status(self) -> BackendStatus:
        model = self._model
        return BackendStatus(
            name="ollama",
            available=model is not None,
            loading=model is None and self._reason is None,
            model=model.name if model else None,
            device=f"ollama at {self._host}" if model else None,
            reason=self._reason,
            context_length=self._context(model) if model else None,
            vision=model.vision if model else False,
        )

    async def refresh(self) -> None:
        await asyncio.shield(self._begin_look())

    def _begin_look(self) -> asyncio.Task[None]:
        """One look at a time, shared by all who ask for it meanwhile."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_again(), name="look at Ollama")
        return self._look

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                installed = await self._installed()
        except (ConnectionError, httpx.TransportError, TimeoutError):
            self._unavailable(self._unreachable())
        except ollama.ResponseError as error:
            self._unavailable(f"Ollama at {self._host} answers with an error: {error.error}. Look at its log.")
        except ValueError:  # neither JSON nor of the expected shape
            self._unavailable(f"What answers at {self._host} is not Ollama; correct OLLAMA_HOST.")
        else:
            self._choose(installed)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        if self.status().loading:
            await self.refresh()
        model = self._model
        if model is None:
            raise Unavailable(self._reason or self._unreachable())
        if not model.vision and any(message.images for message in request.messages):  # Ollama would ignore them
            raise Unavailable(
                f"The Ollama model {model.name} cannot see pictures. Install one that can: "
                f"`ollama pull {EXAMPLE_VISION_MODEL}`."
            )
        begun = False
        try:
            parts = await self._client.chat(
                model.name,
                [message.model_dump(include={"role", "content", "images"}) for message in request.messages],
                stream=True,
                # A short answer should not be spent on thoughts nobody is shown.
                think=False if model.thinking else None,
                options={
                    "temperature": request.temperature,
                    "num_predict": request.max_tokens,
                    "num_ctx": self._context(model),
                },
            )
            async with aclosing(cast(AsyncGenerator[ollama.ChatResponse], parts)) as answer:
                async for part in answer:
                    begun = True
                    if part.message.content:
                        yield ChatDelta(text=written(part.message.content))
                    if part.done:
                        yield ChatDelta(done="length" if part.done_reason == "length" else "stop")
                        return
            raise EngineFailed("Ollama ended its answer early; please send the message again.")
        except (ConnectionError, httpx.TransportError) as error:
            self._unavailable(self._unreachable())
            if begun:
                raise EngineFailed("Ollama went away in mid-answer; please send the message again.") from error
            raise Unavailable(self._unreachable()) from error
        except ollama.ResponseError as error:
            if error.status_code == 404:
                self._unavailable(self._missing(model.name))
                raise Unavailable(self._missing(model.name)) from error
            raise EngineFailed(f"Ollama could not answer: {error.error}. Try again, or look at its log.") from error
        except ValueError as error:  # a line that is not JSON, or not a chat response
            raise EngineFailed("Ollama's answer could not be read; please send the message again.") from error

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _installed(self) -> list[OllamaModel]:
        """All models of the server, asking about those not met before only."""
        known: dict[tuple[str, str], OllamaModel] = {}
        for entry in (await self._client.list()).models:
            if entry.model is None:
                continue
            key = (entry.model, entry.digest or "")
            if key not in self._known:
                families = tuple((entry.details.families if entry.details else None) or ())
                try:
                    self._known[key] = describe(entry.model, families, await self._client.show(entry.model))
                except ollama.ResponseError:  # removed a moment ago, or damaged: not one to choose
                    continue
            known[key] = self._known[key]
        self._known = known
        return list(known.values())

    def _choose(self, installed: list[OllamaModel]) -> None:
        if self._wanted is None:
            fitting = [model for model in installed if model.can_serve(self._vision)]
        elif names_a_file(self._wanted):
            return self._unavailable(f"The model asked for, {self._wanted}, is a file, which Ollama does not serve.")
        else:
            names = {self._wanted, f"{self._wanted}:latest"}
            fitting = [model for model in installed if model.name in names]
            if not fitting:
                return self._unavailable(self._missing(self._wanted))
            fitting = [model for model in fitting if model.can_serve(self._vision)]
        if fitting:
            self._model, self._reason = fitting[0], None
            return None
        example = EXAMPLE_VISION_MODEL if self._vision else EXAMPLE_MODEL
        ability = "see pictures" if self._vision else "chat"
        which = f"The model {self._wanted}" if self._wanted else f"No model of Ollama at {self._host}"
        cannot = "cannot" if self._wanted else "can"
        return self._unavailable(f"{which} {cannot} {ability}. Install one that can: `ollama pull {example}`.")

    def _unavailable(self, reason: str) -> None:
        self._model, self._reason = None, reason

    def _unreachable(self) -> str:
        return (
            f"Ollama does not answer at {self._host}. Start it (`ollama serve`), "
            "install it from https://ollama.com/download, or correct OLLAMA_HOST."
        )

    def _missing(self, name: str) -> str:
        return f"Ollama at {self._host} has no model {name}. Install it: `ollama pull {name}`."

    @staticmethod
    def _context(model: OllamaModel) -> int:
        return min(model.context_length or CONTEXT_LIMIT, CONTEXT_LIMIT)
