"""Every test that asks for ``url`` or what is made of it runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text

from illustrious.database import Database
from illustrious.jobs.store import JobStore
from illustrious.writer import Writer
from tests.jobs.postgresql import MISSING, binaries, running_postgresql


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install illustrious-ai-studio[postgres]")
    bin_folder = binaries()
    if bin_folder is None:
        pytest.skip(MISSING)
    with running_postgresql(bin_folder) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studio.db'}"
    url: str = request.getfixturevalue("postgresql")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


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
