"""Conversations: remembered, one turn at a time, and cut to what the model can read."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.chat import ChatOptions
from illustrious.chat.echo import EchoChat
from illustrious.chat.sessions import Sessions, estimate_tokens, fit
from illustrious.database import Database
from illustrious.types import ChatMessage, ChatRequest


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


SYSTEM = ChatMessage(role="system", content="Be brief.")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "studio.db")
    yield database
    database.close()


async def test_what_was_said_survives_a_restart(tmp_path: Path) -> None:
    said = [user("Hello ✅"), assistant("Hi"), user("again"), assistant("yes")]
    for half in (said[:2], said[2:]):
        database = Database.open(tmp_path / "studio.db")
        await Sessions(database).append("one", half)
        database.close()
    database = Database.open(tmp_path / "studio.db")
    assert await Sessions(database).history("one") == said
    assert await Sessions(database).history("another") == []
    database.close()


async def test_sessions_are_listed_the_latest_first_and_can_be_forgotten(database: Database) -> None:
    times = iter([10.0, 20.0, 30.0])
    sessions = Sessions(database, now=lambda: next(times))
    await sessions.append("one", [SYSTEM, user("x" * 200), assistant("Hi")])
    await sessions.append("two", [user("Good evening"), assistant("Hi")])
    await sessions.append("one", [user("Still here?"), assistant("Yes")])
    first, second = await sessions.summaries()
    assert (first.id, first.title, first.messages, first.created, first.updated) == ("one", "x" * 80, 5, 10.0, 30.0)
    assert (second.id, second.title, second.messages) == ("two", "Good evening", 2)
    assert await sessions.delete("one") is True
    assert await sessions.delete("one") is False
    assert await sessions.history("one") == []
    assert [summary.id for summary in await sessions.summaries()] == ["two"]


async def test_two_requests_in_one_session_never_interleave(database: Database) -> None:
    sessions, chat = Sessions(database), EchoChat(ChatOptions())

    async def say(text: str) -> None:
        async with sessions.turn("one"):
            asked = (*await sessions.history("one"), user(text))
            reply = "".join([delta.text async for delta in chat.chat(ChatRequest(messages=asked))])
            await sessions.append("one", [user(text), assistant(reply)])

    await asyncio.gather(*(say(str(number)) for number in range(8)))
    answers = [message.content for message in await sessions.history("one") if message.role == "assistant"]
    assert answers == [f"Turn {number + 1}: {number}" for number in range(8)]


async def test_different_sessions_do_not_wait_for_each_other(database: Database) -> None:
    sessions = Sessions(database)
    async with sessions.turn("one"), asyncio.timeout(5), sessions.turn("two"):
        pass


async def test_a_turn_that_fails_or_is_cancelled_lets_the_next_one_in_and_no_lock_is_kept(database: Database) -> None:
    sessions = Sessions(database)
    with pytest.raises(ValueError):
        async with sessions.turn("one"):
            raise ValueError
    async with sessions.turn("one"):
        waiting = asyncio.create_task(sessions.turn("one").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(5), sessions.turn("one"):
        pass
    del waiting
    gc.collect()
    assert len(sessions._locks) == 0


def test_a_conversation_that_fits_stays_whole() -> None:
    conversation = [SYSTEM, user("a"), assistant("b"), user("c")]
    assert fit(conversation, 4096, 256) == conversation
    assert fit(conversation, None, 10**6) == conversation


def test_the_oldest_turns_go_first_and_whole() -> None:
    long = "word " * 100
    conversation = [SYSTEM, user(long + "1"), assistant(long), user(long + "2"), assistant("b"), user("now")]
    assert fit(conversation, 512, 200) == [SYSTEM, *conversation[3:]]


def test_the_system_prompt_and_the_last_message_stay_even_when_they_are_too_long() -> None:
    long = "word " * 1000
    conversation = [
        ChatMessage(role="system", content=long),
        user("a"),
        assistant("b"),
        ChatMessage(role="system", content="And be kind."),
        user(long),
    ]
    assert fit(conversation, 512, 200) == [conversation[0], conversation[3], conversation[4]]


def test_an_answer_longer_than_the_context_leaves_half_of_it_for_the_conversation() -> None:
    conversation = [user("Hello"), assistant("Hi"), user("Tell me everything")]
    assert fit(conversation, 1024, 100_000) == conversation


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=400)
messages = st.builds(ChatMessage, role=st.sampled_from(["system", "user", "assistant"]), content=texts)


@given(st.lists(messages, max_size=20), st.integers(16, 4096), st.integers(1, 4096))
def test_any_conversation_is_cut_to_the_room_there_is_or_to_what_must_stay(
    conversation: list[ChatMessage], context_length: int, max_tokens: int
) -> None:
    conversation = [*conversation, user("last")]
    kept = fit(conversation, context_length, max_tokens)
    positions = iter(range(len(conversation)))
    assert all(any(conversation[position] is message for position in positions) for message in kept)  # a subsequence
    assert kept[-1] is conversation[-1]
    assert [m for m in kept if m.role == "system"] == [m for m in conversation if m.role == "system"]
    must_stay = [m for m in conversation[:-1] if m.role == "system"]
    room = context_length - min(max_tokens, context_length // 2)
    assert sum(map(estimate_tokens, kept)) <= room or kept == [*must_stay, conversation[-1]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [  # counted by the starter model's own tokenizer
        ("The quick studio draws a red apple on a wooden table, and then it talks about it for a while. ", 22),
        ("1girl, solo, long hair, looking at viewer, (detailed:1.2), ", 19),
        ("Die Geschwindigkeitsbegrenzung für Kraftfahrzeuge ist außerordentlich schön geändert. ", 34),
        ("3141592653589793238462643383279502884197169399375105820974944592307816406286", 76),
        ("Нарисуй мне красное яблоко на деревянном столе, пожалуйста.", 46),
        ("请画一个红色的苹果放在木桌上，然后告诉我它的味道如何。", 47),
        ("赤いリンゴを木のテーブルの上に描いてください。", 36),
        ("กรุณาวาดแอปเปิ้ลสีแดงบนโต๊ะไม้", 57),
        ("🍎🏰🐱🐼🚀🐉🌄👸", 24),
    ],
)
def test_tokens_are_rather_over_than_underestimated(text: str, tokens: int) -> None:
    overhead = estimate_tokens(user(""))
    assert tokens <= estimate_tokens(user(text)) - overhead <= 3 * tokens
