"""Every test that asks for ``store`` or what it is made of runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from illustrious.database import Database
from illustrious.jobs.store import JobStore
from illustrious.writer import Writer


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    writer = Writer(database)
    yield writer
    await writer.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, writer: Writer, clock: Clock) -> JobStore:
    return JobStore(database, writer, now=clock)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """For what is about SQLite, or not about the database."""
    database = Database.open(tmp_path / "studio.db", busy_timeout=0.05)
    yield database
    database.close()


@pytest.fixture
async def sqlite_store(sqlite: Database) -> AsyncIterator[JobStore]:
    writer = Writer(sqlite)
    yield JobStore(sqlite, writer)
    await writer.close()
