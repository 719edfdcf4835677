"""The fake says what it was told, and shows that it saw the rest."""

from illustrious.chat import ChatOptions
from illustrious.chat.echo import EchoChat
from illustrious.types import ChatMessage, ChatRequest


async def said(request: ChatRequest) -> str:
    return "".join([delta.text async for delta in EchoChat(ChatOptions()).chat(request)])


async def test_it_repeats_the_last_message_and_counts_the_turns() -> None:
    messages = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hello"),
        ChatMessage(role="assistant", content="Turn 1: Hello"),
        ChatMessage(role="user", content="a red apple"),
    )
    assert await said(ChatRequest(messages=messages)) == "Turn 2: a red apple"


async def test_it_counts_the_pictures_it_is_shown() -> None:
    message = ChatMessage(role="user", content="What is this?", images=(b"1", b"2"))
    assert await said(ChatRequest(messages=(message,))) == "Turn 1: What is this? [2 images]"


async def test_a_word_is_a_token() -> None:
    message = ChatMessage(role="user", content="one two three")
    assert await said(ChatRequest(messages=(message,), max_tokens=3)) == "Turn 1: one"
