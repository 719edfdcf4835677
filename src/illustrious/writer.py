"""Group commit: what many callers write at the same moment shares one transaction, and so one flush to the disk.

A database commits one transaction after another, and each durable one waits for the disk. While one is under way the
operations of everybody else gather; together they are the next. Nobody waits longer than for the transaction before
his own and his own, and under load a flush is paid by many.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from illustrious.database import Database
from illustrious.errors import StorageFailed

T = TypeVar("T")

LARGEST_BATCH = 256
"""Operations in one transaction: enough to make the flush cheap, and a few hundredths of a second at most."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    operation: Callable[[Connection], Any]
    is_durable: bool
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Writer:
    """Runs the writes of one process. Use it on one event loop.

    An operation is a function of a connection. It writes within the transaction it is given and is run again when
    that transaction could not be committed because of somebody else's operation, so it must do nothing else.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._waiting: deque[_Waiting] = deque()
        self._apart: deque[_Waiting] = deque()  # was in a batch that an operation spoiled: each goes by itself
        self._under_way: asyncio.Future[list[Any]] | None = None
        self._is_closed = False

    async def run(self, operation: Callable[[Connection], T], durable: bool = True) -> T:
        """What the operation returns, once it is committed; if ``durable``, committed so that a power cut takes it no
        more. A caller who stops waiting does not stop the write.

        Raises what the operation raises, and then nothing of it is written; ``StorageFailed`` when the database is
        locked, full, read-only or gone, or the writer is closed.
        """
        if self._is_closed:
            raise StorageFailed("The studio is closing; try again once it runs.")
        waiting = _Waiting(operation, durable)
        self._waiting.append(waiting)
        self._go_on()
        result: T = await waiting.result
        return result

    async def close(self) -> None:
        """Write what is waiting, then take no more."""
        self._is_closed = True
        while self._under_way is not None:
            await asyncio.wait({self._under_way})
        self._thread.shutdown()

    def _go_on(self) -> None:
        if self._under_way is not None:
            return
        if self._apart:
            batch = [self._apart.popleft()]
        elif self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_BATCH))]
        else:
            return
        self._under_way = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, batch)
        self._under_way.add_done_callback(lambda done: self._settle(batch, done))

    def _commit(self, batch: list[_Waiting]) -> list[Any]:
        with self._database.begin(durable=any(waiting.is_durable for waiting in batch)) as connection:
            return [waiting.operation(connection) for waiting in batch]

    def _settle(self, batch: list[_Waiting], done: asyncio.Future[list[Any]]) -> None:
        self._under_way = None
        error = done.exception()
        if error is None:
            for waiting, result in zip(batch, done.result(), strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)
        elif len(batch) > 1 and not _concerns_everybody(error):
            self._apart.extend(batch)
        else:
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
        self._go_on()


def _concerns_everybody(error: BaseException) -> bool:
    """Whether it is the database that failed, and not one operation by what it does or holds."""
    return isinstance(error, StorageFailed) and not isinstance(error.__cause__, DataError)
