"""Writes that happen at the same moment share a transaction, and do not share their mistakes."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError

from illustrious.database import Database
from illustrious.errors import NotFound, StorageFailed
from illustrious.writer import Writer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "studio.db", busy_timeout=0.05)
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    yield database
    database.close()


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    writer = Writer(database)
    yield writer
    await writer.close()


def add(number: int) -> Callable[[Connection], int]:
    def operation(connection: Connection) -> int:
        connection.execute(text("INSERT INTO notes VALUES (:number)"), {"number": number})
        return number

    return operation


def notes(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT id FROM notes ORDER BY id")).scalars())


def statements(database: Database) -> list[str]:
    """What is executed from now on."""
    executed: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        executed.append(statement)

    return executed


async def test_many_at_once_share_few_commits(database: Database, writer: Writer) -> None:
    executed = statements(database)
    assert await asyncio.gather(*(writer.run(add(number)) for number in range(100))) == list(range(100))
    assert notes(database) == list(range(100))
    assert executed.count("BEGIN IMMEDIATE") == 2, "the first, and all who came while it was under way"


async def test_one_that_fails_is_alone_in_it(database: Database, writer: Writer) -> None:
    await writer.run(add(5))

    def refuse(connection: Connection) -> int:
        add(100)(connection)
        raise NotFound("nothing here")

    operations = [add(1), add(5), refuse, add(2)]
    results = await asyncio.gather(writer.run(add(0)), *map(writer.run, operations), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, IntegrityError, NotFound, int]
    assert notes(database) == [0, 1, 2, 5]


async def test_a_locked_database_is_an_error_to_all_and_then_forgotten(
    database: Database, writer: Writer, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(writer.run(add(number)) for number in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [StorageFailed] * 3
        assert "try again" in str(results[0])
    assert await writer.run(add(7)) == 7
    assert notes(database) == [7]


async def test_only_what_must_survive_a_power_cut_waits_for_the_disk(database: Database, writer: Writer) -> None:
    executed = statements(database)
    await writer.run(add(1), durable=False)
    await writer.run(add(2))
    assert [one for one in executed if "PRAGMA" in one] == ["PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"]


async def test_who_stops_waiting_does_not_stop_the_write(database: Database, writer: Writer) -> None:
    impatient = asyncio.create_task(writer.run(add(1)))
    await asyncio.sleep(0)
    impatient.cancel()
    await writer.run(add(2))
    assert impatient.cancelled()
    assert notes(database) == [1, 2]


async def test_closing_writes_what_is_waiting_and_takes_no_more(database: Database) -> None:
    writer = Writer(database)
    waiting = [asyncio.create_task(writer.run(add(number))) for number in range(10)]
    await asyncio.sleep(0)
    await writer.close()
    assert await asyncio.gather(*waiting) == notes(database) == list(range(10))
    with pytest.raises(StorageFailed, match="closing"):
        await writer.run(add(99))
