"""The first backend that can answer does, and one that goes away is passed over."""

from collections.abc import AsyncGenerator

import pytest

from illustrious.chat import ChatOptions
from illustrious.chat.echo import EchoChat
from illustrious.chat.ollama import OllamaChat
from illustrious.chat.preferred import PreferredChat
from illustrious.errors import EngineFailed, StudioError, Unavailable
from illustrious.types import BackendStatus, ChatDelta, ChatMessage, ChatRequest
from tests.chat.ollama_server import OllamaServer

HELLO = ChatRequest(messages=(ChatMessage(role="user", content="hello"),))


class Broken(EchoChat):
    """Says it can answer, gives so many pieces, and fails."""

    def __init__(self, error: StudioError, pieces: int = 0) -> None:
        super().__init__(ChatOptions())
        self._error = error
        self._pieces = pieces

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatDelta]:
        for _ in range(self._pieces):
            yield ChatDelta(text="half ")
        raise self._error


class Away(EchoChat):
    def __init__(self, reason: str) -> None:
        super().__init__(ChatOptions())
        self._reason = reason

    def status(self) -> BackendStatus:
        return BackendStatus(name="away", available=False, reason=self._reason)


async def text(chat: PreferredChat) -> str:
    return "".join([delta.text async for delta in chat.chat(HELLO)])


async def test_the_first_available_one_answers_and_is_the_status() -> None:
    chat = PreferredChat([Away("It is away."), EchoChat(ChatOptions())])
    assert chat.status().name == "echo"
    assert [status.reason for status in chat.statuses()] == ["It is away.", None]
    assert await text(chat) == "Turn 1: hello"


async def test_one_that_turns_out_to_be_away_is_passed_over() -> None:
    assert await text(PreferredChat([Broken(Unavailable("gone")), EchoChat(ChatOptions())])) == "Turn 1: hello"


async def test_one_that_fails_at_the_request_is_not_hidden() -> None:
    with pytest.raises(EngineFailed, match="mid-answer"):
        await text(PreferredChat([Broken(EngineFailed("failed in mid-answer")), EchoChat(ChatOptions())]))


async def test_an_answer_that_began_is_never_taken_over_by_another() -> None:
    with pytest.raises(Unavailable, match="gone"):
        await text(PreferredChat([Broken(Unavailable("gone"), pieces=1), EchoChat(ChatOptions())]))


async def test_when_none_can_answer_all_reasons_are_told() -> None:
    chat = PreferredChat([Away("Start the first."), Away("Install the second.")])
    status = chat.status()
    assert (status.available, status.reason) == (False, "Start the first. Install the second.")
    with pytest.raises(Unavailable, match=r"Start the first\. Install the second\."):
        await text(chat)


async def test_ollama_going_away_and_coming_back_is_noticed_without_a_restart() -> None:
    server = OllamaServer()
    server.up()
    chat = PreferredChat([OllamaChat(ChatOptions(ollama_host=server.host)), EchoChat(ChatOptions())])
    await chat.start()
    try:
        await chat.refresh()
        assert chat.status().name == "ollama"
        assert await text(chat) == "1: hello"
        server.down()
        assert await text(chat) == "Turn 1: hello"  # noticed by the request itself
        assert chat.status().name == "echo"
        server.up()
        await chat.refresh()
        assert chat.status().name == "ollama"
        assert await text(chat) == "1: hello"
    finally:
        await chat.close()
        server.down()
