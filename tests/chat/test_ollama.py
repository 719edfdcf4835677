"""Ollama, as its client sees it: which model is chosen, what reaches it, and what is said when it cannot answer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from illustrious.chat import ChatOptions
from illustrious.chat.ollama import CONTEXT_LIMIT, OllamaChat
from illustrious.errors import EngineFailed, Unavailable
from illustrious.types import ChatMessage, ChatRequest
from tests.chat.ollama_server import CHAT_MODEL, EMBEDDING_MODEL, VISION_MODEL, OllamaServer, before_capabilities

HELLO = ChatRequest(messages=(ChatMessage(role="user", content="hello there"),), temperature=0.3, max_tokens=77)
LOOK = ChatRequest(messages=(ChatMessage(role="user", content="What is this?", images=(b"\x89PNG",)),))


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@asynccontextmanager
async def connected(server: OllamaServer, **options: Any) -> AsyncIterator[OllamaChat]:
    chat = OllamaChat(ChatOptions(ollama_host=server.host, **options))
    await chat.start()
    try:
        await chat.refresh()
        yield chat
    finally:
        await chat.close()


async def text(chat: OllamaChat, request: ChatRequest = HELLO) -> str:
    return "".join([delta.text async for delta in chat.chat(request)])


async def test_what_was_asked_reaches_the_model(server: OllamaServer) -> None:
    async with connected(server) as chat:
        assert await text(chat) == "1: hello there"
    (asked,) = server.asked("/api/chat")
    assert asked["model"] == "tiny:latest"
    assert asked["messages"] == [{"role": "user", "content": "hello there"}]
    assert asked["options"] == {"temperature": 0.3, "num_predict": 77, "num_ctx": CONTEXT_LIMIT}
    assert "think" not in asked


async def test_a_model_that_thinks_is_asked_not_to(server: OllamaServer) -> None:
    server.models = {"r1": {**CHAT_MODEL, "capabilities": ["completion", "thinking"]}}
    async with connected(server) as chat:
        await text(chat)
    assert server.asked("/api/chat")[0]["think"] is False


async def test_the_context_is_no_longer_than_the_models_own(server: OllamaServer) -> None:
    server.models = {"old": {**CHAT_MODEL, "model_info": {"general.architecture": "gpt2", "gpt2.context_length": 1024}}}
    async with connected(server) as chat:
        assert chat.status().context_length == 1024
        await text(chat)
    assert server.asked("/api/chat")[0]["options"]["num_ctx"] == 1024


@pytest.mark.parametrize("wanted", ["second", "second:latest"])
async def test_the_configured_model_is_used(server: OllamaServer, wanted: str) -> None:
    server.models = {"first:latest": CHAT_MODEL, "second:latest": CHAT_MODEL}
    async with connected(server, model=wanted) as chat:
        assert chat.status().model == "second:latest"


@pytest.mark.parametrize(
    ("embedding", "blind", "seeing"),
    [
        (EMBEDDING_MODEL, CHAT_MODEL, VISION_MODEL),
        (
            before_capabilities(EMBEDDING_MODEL),
            before_capabilities(CHAT_MODEL),
            before_capabilities(CHAT_MODEL, **{"general.architecture": "clip"}),
        ),
        (
            before_capabilities(EMBEDDING_MODEL),
            before_capabilities(CHAT_MODEL),
            before_capabilities({**CHAT_MODEL, "model_info": {"gemma3.vision.block_count": 27}}),
        ),
    ],
    ids=["capabilities", "projector before capabilities", "built-in vision before capabilities"],
)
async def test_the_first_model_with_the_ability_is_chosen(
    server: OllamaServer, embedding: dict[str, Any], blind: dict[str, Any], seeing: dict[str, Any]
) -> None:
    server.models = {"embed": embedding, "blind": blind, "seeing": seeing}
    async with connected(server) as chat:
        assert (chat.status().model, chat.status().vision) == ("blind", False)
    async with connected(server, vision=True) as chat:
        assert (chat.status().model, chat.status().vision) == ("seeing", True)
        assert await text(chat, LOOK) == "1: What is this?"
    assert server.asked("/api/chat")[0]["messages"][0]["images"] == ["iVBORw=="]


async def test_a_model_that_cannot_see_is_not_shown_pictures(server: OllamaServer) -> None:
    async with connected(server) as chat:
        with pytest.raises(Unavailable, match="ollama pull"):
            await text(chat, LOOK)
    assert server.asked("/api/chat") == []


async def test_each_model_is_asked_about_once(server: OllamaServer) -> None:
    async with connected(server) as chat:
        await chat.refresh()
        assert len(server.asked("/api/show")) == 1
        server.models["new"] = CHAT_MODEL
        await chat.refresh()
    assert [asked["model"] for asked in server.asked("/api/show")] == ["tiny:latest", "new"]


@pytest.mark.parametrize(
    ("models", "options", "reason"),
    [
        ({}, {}, "ollama pull"),
        ({"embed": EMBEDDING_MODEL}, {}, "can chat.*ollama pull"),
        ({"embed": EMBEDDING_MODEL}, {"model": "embed"}, "embed cannot chat"),
        ({"blind": CHAT_MODEL}, {"vision": True}, "can see pictures.*ollama pull"),
        ({"blind": CHAT_MODEL}, {"model": "absent"}, "no model absent.*`ollama pull absent`"),
        ({"blind": CHAT_MODEL}, {"model": "/models/mine.gguf"}, "file"),
    ],
)
async def test_without_a_fitting_model_the_reason_has_the_remedy(
    server: OllamaServer, models: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    server.models = models
    async with connected(server, **options) as chat:
        status = chat.status()
        assert (status.available, status.loading, status.model) == (False, False, None)
        with pytest.raises(Unavailable, match=reason):
            await text(chat)


async def test_a_server_that_goes_away_is_noticed_by_the_request_and_one_that_comes_up_by_looking(
    server: OllamaServer,
) -> None:
    async with connected(server) as chat:
        server.down()
        assert chat.status().available
        with pytest.raises(Unavailable, match="ollama serve"):
            await text(chat)
        assert not chat.status().available
        server.up()
        assert not chat.status().available  # nobody looked
        await chat.refresh()
        assert chat.status().available
        assert await text(chat) == "1: hello there"


async def test_a_request_right_after_the_start_waits_for_the_first_look(server: OllamaServer) -> None:
    chat = OllamaChat(ChatOptions(ollama_host=server.host))
    await chat.start()
    assert (chat.status().available, chat.status().loading) == (False, True)
    assert await text(chat) == "1: hello there"
    await chat.close()


async def test_a_model_removed_meanwhile_is_named_with_the_command_that_brings_it_back(server: OllamaServer) -> None:
    async with connected(server) as chat:
        server.models = {}
        with pytest.raises(Unavailable, match="ollama pull tiny:latest"):
            await text(chat)
        assert not chat.status().available


async def test_an_error_in_mid_answer_is_a_failure_of_this_request_only(server: OllamaServer) -> None:
    async with connected(server) as chat:
        server.error = "out of memory"
        with pytest.raises(EngineFailed, match="out of memory"):
            await text(chat)
        server.error = None
        assert await text(chat) == "1: hello there"


async def test_what_no_message_may_hold_is_left_out_of_an_answer(server: OllamaServer) -> None:
    half = ChatRequest(messages=(ChatMessage(role="user", content="NUL SURROGATE end"),))
    server.wording = {"NUL": "a\0b", "SURROGATE": "c\ud83dd"}
    async with connected(server) as chat:
        assert await text(chat, half) == "1: ab cd end"


async def test_a_connection_that_breaks_in_mid_answer_is_a_failure(server: OllamaServer) -> None:
    server.cuts_off = True
    async with connected(server) as chat:
        with pytest.raises(EngineFailed, match="send the message again"):
            await text(chat)
        assert not chat.status().available


async def test_leaving_early_hangs_up_which_is_how_ollama_stops(server: OllamaServer) -> None:
    server.gate = threading.Event()
    many = ChatRequest(messages=(ChatMessage(role="user", content="word " * 20_000),), max_tokens=20_000)
    async with connected(server) as chat:
        async with aclosing(chat.chat(many)) as deltas:
            assert (await anext(deltas)).text == "1:"
        server.gate.set()
        assert await asyncio.to_thread(server.hung_up.wait, 10)


async def test_something_else_at_that_address_is_told_apart() -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/html\r\n\r\n<html></html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        chat = OllamaChat(ChatOptions(ollama_host=f"http://127.0.0.1:{port}"))
        await chat.refresh()
        assert "not Ollama" in (chat.status().reason or "")
        await chat.close()
