"""Conversations that are remembered: their messages in the database, their turns one at a time."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from sqlalchemy import Column, Float, Integer, MetaData, Table, Text, delete, func, insert, select

from illustrious.database import Database
from illustrious.types import ChatMessage, Noun

metadata = MetaData()

messages = Table(
    "messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("owner", Text),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created", Float, nullable=False),
    sqlite_autoincrement=True,
)

MESSAGE_TOKENS = 8
"""What a chat template puts around a message: role, start, end, line breaks. The known ones take 3 to 7."""

IMAGE_TOKENS = 1024
"""Room for one picture; vision models take 256 to 2,880 for it."""


class SessionSummary(Noun):
    """One conversation. Times in seconds since 1970, UTC; ``title`` is how its first message by the user begins."""

    id: str
    title: str
    messages: int
    created: float
    updated: float


class Sessions:
    """What was said, by session. Every method raises ``StorageFailed`` when the database cannot be used."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        # A lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """Alone in this session for the block, first come first served: read the history, answer, append."""
        lock = self._locks.get(session_id)
        if lock is None:
            lock = self._locks[session_id] = asyncio.Lock()
        async with lock:
            yield

    async def history(self, session_id: str) -> list[ChatMessage]:
        """All messages, oldest first; none for a session nobody wrote in."""
        return await asyncio.to_thread(self._history, session_id)

    async def append(self, session_id: str, said: Sequence[ChatMessage]) -> None:
        """Remember all of these, or none of them. Texts only: pictures are kept by the gallery."""
        await asyncio.to_thread(self._append, session_id, said)

    async def summaries(self) -> list[SessionSummary]:
        """All sessions, the one written in last first."""
        return await asyncio.to_thread(self._summaries)

    async def delete(self, session_id: str) -> bool:
        """Forget a session; whether there was one."""
        return await asyncio.to_thread(self._delete, session_id)

    def _history(self, session_id: str) -> list[ChatMessage]:
        query = (
            select(messages.c.role, messages.c.content)
            .where(messages.c.session_id == session_id)
            .order_by(messages.c.id)
        )
        with self._database.read() as connection:
            return [ChatMessage(role=role, content=content) for role, content in connection.execute(query)]

    def _append(self, session_id: str, said: Sequence[ChatMessage]) -> None:
        if not said:
            return
        created = self._now()
        rows = [
            {"session_id": session_id, "role": message.role, "content": message.content, "created": created}
            for message in said
        ]
        with self._database.begin() as connection:
            connection.execute(insert(messages), rows)

    def _summaries(self) -> list[SessionSummary]:
        groups = (
            select(
                messages.c.session_id.label("id"),
                func.count().label("messages"),
                func.min(messages.c.created).label("created"),
                func.max(messages.c.created).label("updated"),
                func.max(messages.c.id).label("last"),
            )
            .group_by(messages.c.session_id)
            .subquery()
        )
        opening = (
            select(func.substr(messages.c.content, 1, 80))
            .where(messages.c.session_id == groups.c.id, messages.c.role == "user")
            .order_by(messages.c.id)
            .limit(1)
            .scalar_subquery()
        )
        title = func.coalesce(opening, "").label("title")
        query = select(groups.c.id, title, groups.c.messages, groups.c.created, groups.c.updated).order_by(
            groups.c.last.desc()
        )
        with self._database.read() as connection:
            return [SessionSummary(**row) for row in connection.execute(query).mappings()]

    def _delete(self, session_id: str) -> bool:
        with self._database.begin() as connection:
            result = connection.execute(delete(messages).where(messages.c.session_id == session_id))
            return result.rowcount > 0


def estimate_tokens(message: ChatMessage) -> int:
    """About how many tokens a message takes, rather too many than too few.

    The models' own tokenizers are not at hand (Ollama does not offer them). Measured with a 49,000-word English
    byte-level BPE, the least favourable kind in use: English prose 4.3 characters a token, code 3.9, German 2.5;
    digits and punctuation 1; Chinese, Japanese, Thai, Cyrillic and emoji 1.3 to 2.4 bytes. Hence 2.5 ASCII letters or
    spaces, 1 other ASCII character, 4/3 bytes of anything else. Only text without words (base64) takes more.
    """
    text = message.content
    words = sum(1 for character in text if character.isascii() and (character.isalpha() or character.isspace()))
    symbols = sum(1 for character in text if character.isascii()) - words
    other_bytes = len(text.encode("utf-8", "replace")) - words - symbols
    return math.ceil(words / 2.5 + symbols + other_bytes * 0.75) + MESSAGE_TOKENS + IMAGE_TOKENS * len(message.images)


def fit(conversation: Sequence[ChatMessage], context_length: int | None, max_tokens: int) -> list[ChatMessage]:
    """The conversation without as many of its oldest turns as it takes to leave room for the answer.

    A turn is a user's message and what follows up to the next one, and goes as a whole. System messages always stay,
    and so does everything from the user's last message on, even where that alone is too long: then the backend says
    so. The answer is promised ``max_tokens``, or half the context when it asks for more than that.
    """
    if context_length is None:
        return list(conversation)
    room = context_length - min(max_tokens, context_length // 2)
    turns: list[list[int]] = [[]]  # positions in the conversation; the first holds what precedes any user's message
    for position, message in enumerate(conversation):
        if message.role == "user":
            turns.append([])
        if message.role != "system":
            turns[-1].append(position)
    cost = [estimate_tokens(message) for message in conversation]
    total = sum(cost)
    dropped: set[int] = set()
    for turn in turns[:-1]:
        if total <= room:
            break
        dropped.update(turn)
        total -= sum(cost[position] for position in turn)
    return [message for position, message in enumerate(conversation) if position not in dropped]
