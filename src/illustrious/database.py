"""The one database: its engine, its transactions and its migrations. Tables live with their owners.

SQLite in the data folder by default, in WAL mode; PostgreSQL by its SQLAlchemy URL. Everything here blocks: async
callers use ``asyncio.to_thread``.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from illustrious.errors import CannotStart, StorageFailed

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
"""SQLite's pragma of that name. In WAL mode NORMAL never damages the file; a power cut may take the last commits."""

BUSY_TIMEOUT = 5.0
"""Seconds a transaction waits for another process's before ``StorageFailed``."""

CONNECT_TIMEOUT = 10
"""Seconds a PostgreSQL server may take to answer at all."""

STUDIO_LOCK = 0x696C6C757374  # "illust"
"""PostgreSQL's advisory lock that a studio holds as long as it uses a database."""

_WRITES = "illustrious_writes"
_DURABLE = "illustrious_durable"


class Database:
    """An open, migrated database. Connections come from a pool and may be used from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(
        cls, where: str | Path, synchronous: Synchronous = "NORMAL", busy_timeout: float = BUSY_TIMEOUT
    ) -> "Database":
        """Open the database at a path or SQLAlchemy URL, making or migrating it as needed.

        An existing SQLite file is copied to ``<name>.backup-<its revision>`` before it is migrated. Raises
        ``CannotStart`` when the file is damaged, was written by a newer studio, or cannot be opened or migrated, and
        when the server of a URL cannot be reached.
        """
        url = _url(where)
        file = _file(url)
        name = str(file) if file else url.render_as_string(hide_password=True)
        if file:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CannotStart(
                    f"The folder of the database {name} cannot be made ({error.strerror}). "
                    "Mend its permissions, or choose another with --data-dir."
                ) from error
        engine = _engine(url, busy_timeout)
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine, synchronous)
        try:
            if file and file.exists():
                _check(engine, file)
            _migrate(engine, file)
        except SQLAlchemyError as error:
            engine.dispose()
            if file and _is_damaged(error):
                raise _damaged(file) from error
            remedy = (
                "Check that it is there, writable and not in use, or choose another with --data-dir."
                if file
                else _server_remedy(_reason(error))
            )
            raise CannotStart(f"The database {name} cannot be opened ({_reason(error)}). {remedy}") from error
        except CannotStart:
            engine.dispose()
            raise
        return cls(engine)

    @contextmanager
    def begin(self, durable: bool = False) -> Iterator[Connection]:
        """A transaction that writes: committed at the end of the block, undone when the block raises.

        ``durable`` waits until the disk has it, whatever ``synchronous`` says: then a power cut does not take it, nor
        any that was committed before. PostgreSQL always does so unless its own configuration says otherwise.

        Writers take turns from their first line on, so what a block reads is still so when it writes. Raises
        ``StorageFailed`` when the database is locked, full, read-only or damaged; ``IntegrityError``, which tells the
        caller about its own data, passes through.
        """
        with self._mapped(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True, _DURABLE: durable})
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view, waiting for no writer. Raises ``StorageFailed``."""
        with self._mapped(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other studios out for the block; the end of the process lets go, too. An SQLite file needs it not: it
        lies in a folder that is held. Raises ``CannotStart`` when another studio is using the database."""
        if self.engine.dialect.name != "postgresql":
            yield
            return
        with self.engine.connect() as connection:
            # Without a transaction, which would be open for days: the lock belongs to the connection.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.execute(select(func.pg_try_advisory_lock(STUDIO_LOCK))).scalar_one():
                name = self.engine.url.render_as_string(hide_password=True)
                raise CannotStart(
                    f"Another studio is using the database {name}. Stop that one, or give this one a database of its "
                    "own with the setting database."
                )
            try:
                yield
            finally:
                connection.invalidate()  # not back into the pool with the lock, even where the server is gone

    def back_up(self, every: float) -> Path | None:
        """Copy an SQLite file to ``<name>.backup-daily``, unless that is younger than ``every`` seconds.

        The copy before it is kept as ``<name>.backup-earlier``. Returns the new copy. A PostgreSQL database is its
        host's to back up. Raises ``StorageFailed``.
        """
        file = _file(self.engine.url)
        if file is None:
            return None
        copy, earlier = (file.with_name(f"{file.name}.backup-{age}") for age in ("daily", "earlier"))
        try:
            if copy.exists():
                if time.time() - copy.stat().st_mtime < every:
                    return None
                copy.replace(earlier)
            _copy(file, copy)
        except (OSError, sqlite3.Error) as error:
            raise StorageFailed(
                f"The database {file} could not be backed up ({error}). Free some space on the disk."
            ) from error
        return copy

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            raise StorageFailed(f"The database could not be used ({_reason(error)}). {_remedy(error)}") from error


def _url(where: str | Path) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except (SQLAlchemyError, ValueError) as error:  # ValueError: a port that is no number
        raise CannotStart(
            "The setting database is no URL. One looks like postgresql://user:password@host:5432/name; unset, the "
            "studio keeps an SQLite file in its data folder."
        ) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise CannotStart(
            f"The setting database asks for {url.get_backend_name()}, which is not supported. "
            "Give it the URL of a PostgreSQL database, or leave it unset."
        )
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: URL, busy_timeout: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        return create_engine(url, connect_args={"timeout": busy_timeout} if _file(url) else {})
    try:
        # pre_ping: a server that was restarted meanwhile costs a look, not an error.
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT})
    except (ImportError, SQLAlchemyError) as error:
        raise CannotStart(
            f"The driver of {url.render_as_string()} cannot be used ({error}). "
            "Install it: pip install 'illustrious-ai-studio[postgres]'"
        ) from error


def _server_remedy(reason: str) -> str:
    if "password" in reason or "authentication" in reason:
        return "Mend user and password in the setting database."
    if "does not exist" in reason:
        return "Make it with createdb, or mend the setting database."
    if "permission denied" in reason:
        return "Let its user make tables there: a database is best owned by the studio's user."
    return "Start the server, or mend its address in the setting database."


def _file(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _prepare_sqlite(engine: Engine, synchronous: Synchronous) -> None:
    """Pragmas on every new connection, and transactions that are SQLite's own.

    Left to itself Python's driver begins a transaction at the first write only, and none for DDL: a migration could
    stop half-way, and a transaction that read before it writes fails at once when another wrote in between.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(_WRITES, False):
            connection.exec_driver_sql("BEGIN")
            return
        is_raised = options.get(_DURABLE, False) and synchronous in ("OFF", "NORMAL")
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if is_raised else synchronous}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check(engine: Engine, file: Path) -> None:
    with engine.connect() as connection:
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if verdict != "ok":
        raise _damaged(file)


def _migrate(engine: Engine, file: Path | None) -> None:
    config = Config()
    config.set_main_option("script_location", "illustrious:migrations")
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        is_used = bool(inspect(connection).get_table_names())
    if current == newest:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise CannotStart(
            f"The database {file or engine.url.render_as_string()} was written by a newer version of the studio "
            f"(its revision {current} is not known here). Update the studio, or choose another folder with --data-dir."
        )
    if file and is_used:
        _back_up(file, current or "none")
    with engine.connect() as connection:
        connection = connection.execution_options(**{_WRITES: True})
        with connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _back_up(file: Path, revision: str) -> None:
    """Before a migration: without a copy there is none."""
    copy = file.with_name(f"{file.name}.backup-{revision}")
    try:
        _copy(file, copy)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(
            f"The database {file} must be migrated, and its backup {copy.name} could not be written ({error}). "
            "Free some space, then start again."
        ) from error


def _copy(file: Path, copy: Path) -> None:
    """Consistent, by SQLite's own backup, which sees what is still in the write-ahead log; whole or not there."""
    unfinished = copy.with_name(f"{copy.name}.part")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(unfinished)) as target:
        source.backup(target)
    unfinished.replace(copy)


def _damaged(file: Path) -> CannotStart:
    copies = [path for path in file.parent.glob(f"{file.name}.backup-*") if path.suffix != ".part"]
    backups = sorted(copies, key=lambda path: path.stat().st_mtime)
    remedy = (
        f"Move it away and rename its newest backup {backups[-1]} to {file.name}"
        if backups
        else "There is no backup of it: move it away, and the studio makes a new one"
    )
    return CannotStart(f"The database {file} is damaged. {remedy}, then start again. Pictures are files of their own.")


def _reason(error: SQLAlchemyError) -> str:
    """What the driver says, in one line."""
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())


def _is_damaged(error: SQLAlchemyError) -> bool:
    reason = _reason(error)
    return "malformed" in reason or "not a database" in reason


def _remedy(error: SQLAlchemyError) -> str:
    reason = _reason(error)
    if "disk is full" in reason or "disk I/O" in reason:
        return "Free some space on the disk of the data folder, then try again."
    if "connection" in reason:  # PostgreSQL's word, whichever way it went
        return "Start the database server, then try again; jobs that were accepted are kept in it."
    if "locked" in reason:
        return "Another program is holding it; try again in a moment."
    if "readonly" in reason or "read-only" in reason:
        return "Mend the permissions of the data folder, then try again."
    if _is_damaged(error):
        return "It is damaged: restart the studio, which says how to mend it."
    return "Try again; if it stays so, restart the studio."
