"""The database: opened, migrated with a copy kept, and honest when it cannot be used."""

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import IntegrityError

from illustrious.chat.sessions import metadata as chat_tables
from illustrious.database import Database
from illustrious.errors import CannotStart, StorageFailed
from tests.postgresql import MISSING, binaries, running_postgresql

INSERT = "INSERT INTO messages (session_id, role, content, created) VALUES ('s', 'user', 'hello', 0)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "studio.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    database = Database.open(file)
    yield database
    database.close()


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM messages").scalar_one())


def made_old(file: Path) -> None:
    """As a studio before the first migration would have left it: content, and no table of ours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE keepsake (word TEXT)")
        connection.execute("INSERT INTO keepsake VALUES ('precious')")


def test_a_new_database_has_every_table_and_no_backup(database: Database, file: Path) -> None:
    with database.read() as connection:
        tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    assert {"messages", "images", "alembic_version"} <= tables
    assert list(file.parent.glob("*backup*")) == []


def test_the_migrations_make_the_tables_their_owners_declare(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_object": lambda item, name, kind, *_: kind != "table" or name in chat_tables.tables},
        )
        assert compare_metadata(context, chat_tables) == []


def test_the_pragmas_hold_on_every_connection(database: Database) -> None:
    def settings() -> tuple[object, ...]:
        with database.read() as connection:
            names = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
            return tuple(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names)

    with database.read():  # one connection is taken: the next is another
        assert settings() == settings() == ("wal", 1, 1, 5000)


def test_durability_is_chosen_in_one_place(file: Path) -> None:
    database = Database.open(file, synchronous="FULL")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
    database.close()


def test_opening_again_changes_nothing(database: Database, file: Path) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
    again = Database.open(f"sqlite:///{file}")
    assert count(again) == 1
    again.close()
    assert list(file.parent.glob("*backup*")) == []


def test_an_existing_database_is_copied_before_it_is_migrated(file: Path) -> None:
    made_old(file)
    Database.open(file).close()
    (backup,) = file.parent.glob("*backup*")
    assert backup.name == "studio.db.backup-none"
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT word FROM keepsake").fetchall() == [("precious",)]
        assert copy.execute("SELECT name FROM sqlite_master WHERE name = 'messages'").fetchall() == []


def test_a_migration_that_fails_leaves_the_database_as_it_was(file: Path) -> None:
    made_old(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE images (in_the_way TEXT)")  # the second table of the first migration
    with pytest.raises(CannotStart, match="images"):
        Database.open(file)
    with closing(sqlite3.connect(file)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names == {"keepsake", "images"}


def test_a_newer_database_is_refused_politely_and_left_alone(file: Path) -> None:
    database = Database.open(file)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql(INSERT)
    database.close()
    before = file.read_bytes()
    with pytest.raises(CannotStart, match=r"newer version of the studio.*Update the studio"):
        Database.open(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_damaged_database_is_named_with_its_newest_backup(file: Path, where: str) -> None:
    database = Database.open(file)
    with database.begin() as connection:
        for _ in range(2000):
            connection.exec_driver_sql(INSERT)
    database.close()
    content = bytearray(file.read_bytes())
    begin = 0 if where == "start" else len(content) // 2 // 4096 * 4096
    content[begin : begin + 4096] = b"\xa5" * 4096
    file.write_bytes(content)
    with pytest.raises(CannotStart, match=r"studio\.db is damaged.*no backup"):
        Database.open(file)
    backup = file.with_name("studio.db.backup-0000")
    backup.touch()
    with pytest.raises(CannotStart) as refusal:
        Database.open(file)
    assert str(file) in str(refusal.value)
    assert str(backup) in str(refusal.value)


def test_a_copy_is_made_once_a_day_and_the_one_before_is_kept(database: Database, file: Path) -> None:
    daily, earlier = (file.with_name(f"{file.name}.backup-{age}") for age in ("daily", "earlier"))
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
    assert database.back_up(every=86_400.0) == daily
    with closing(sqlite3.connect(daily)) as copy:
        assert copy.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    assert database.back_up(every=86_400.0) is None
    first = daily.read_bytes()
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
    assert database.back_up(every=0.0) == daily
    assert earlier.read_bytes() == first
    assert daily.read_bytes() != first


def test_a_copy_that_cannot_be_written_is_an_error_and_the_database_goes_on(database: Database, file: Path) -> None:
    file.with_name(f"{file.name}.backup-daily.part").mkdir()
    with pytest.raises(StorageFailed, match="backed up"):
        database.back_up(every=0.0)
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)


def test_a_place_that_cannot_hold_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(CannotStart, match="--data-dir"):
        Database.open(tmp_path / "occupied" / "studio.db")
    with pytest.raises(CannotStart, match="--data-dir"):
        Database.open(tmp_path)


def test_a_block_that_raises_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        connection.exec_driver_sql(INSERT)
        raise ZeroDivisionError
    assert count(database) == 0


def test_readers_wait_for_no_writer_and_see_one_state(database: Database) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
        assert count(database) == 0
    assert count(database) == 1


def test_writers_in_threads_take_turns(database: Database) -> None:
    def add_one_to_what_is_there() -> None:
        for _ in range(10):
            with database.begin() as connection:
                there = connection.exec_driver_sql("SELECT count(*) FROM messages").scalar_one()
                connection.exec_driver_sql(INSERT.replace("hello", str(there)))

    threads = [threading.Thread(target=add_one_to_what_is_there) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        contents = connection.exec_driver_sql("SELECT content FROM messages ORDER BY id").scalars().all()
    assert contents == [str(number) for number in range(40)]


def test_a_locked_database_is_a_storage_failure_with_a_remedy(file: Path) -> None:
    database = Database.open(file, busy_timeout=0.05)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match=r"locked.*try again"), database.begin():
            pass
        other.rollback()
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
    database.close()


def test_a_full_disk_is_a_storage_failure_and_the_database_lives_on(database: Database) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(INSERT)
    with pytest.raises(StorageFailed, match=r"full.*Free some space"), database.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # what SQLite itself says when the disk is full
        for _ in range(1000):
            connection.exec_driver_sql(INSERT.replace("hello", "x" * 1000))
    assert count(database) == 1


def test_a_conflict_with_the_callers_own_data_is_the_callers(database: Database) -> None:
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.exec_driver_sql(INSERT.replace("'s'", "NULL"))


# --- by URL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://studio:hush@127.0.0.1:9/studio", "Start the server, or mend its address"),
        ("postgresql://studio:hush@127.0.0.1:port/studio", "looks like postgresql://user:password@host:5432/name"),
        ("mysql://studio:hush@127.0.0.1/studio", "mysql, which is not supported"),
        ("postgresql+nonsense://studio:hush@127.0.0.1/studio", "pip install"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_a_remedy_and_without_its_password(url: str, words: str) -> None:
    with pytest.raises(CannotStart) as refusal:
        Database.open(url)
    assert words in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CannotStart, match=r"pip install 'illustrious-ai-studio\[postgres\]'"):
        Database.open("postgresql://studio@127.0.0.1/studio")


def test_a_wrong_password_and_a_database_that_is_not_there_are_told_apart(postgresql: str) -> None:
    server = make_url(postgresql)
    with create_engine(server).connect() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS guest")
        connection.exec_driver_sql("CREATE ROLE guest LOGIN PASSWORD 'right'")
        connection.commit()
    for url, words in (
        (server.set(username="guest", password="wrong"), "Mend user and password"),
        (server.set(database="nowhere"), "createdb"),
    ):
        with pytest.raises(CannotStart, match=words):
            Database.open(url.render_as_string(hide_password=False))


def test_one_studio_uses_a_database_at_a_time(postgresql: str) -> None:
    first, second = Database.open(postgresql), Database.open(postgresql)
    with first.held(), pytest.raises(CannotStart, match="Another studio"), second.held():
        pass
    with second.held():
        pass
    first.close()
    second.close()


def test_a_server_that_goes_away_is_a_storage_failure_with_a_remedy() -> None:
    folder = binaries()
    if folder is None:
        pytest.skip(MISSING)
    with running_postgresql(folder) as url:
        database = Database.open(url)
        assert count(database) == 0
    with pytest.raises(StorageFailed, match="Start the database server"):
        count(database)
    database.close()
