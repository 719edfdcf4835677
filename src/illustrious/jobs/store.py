"""Jobs in the database: every move is one conditional UPDATE, and what it returns is what was committed.

**Turns.** Owners share the queue round-robin: a job gets its place, its ``turn``, when it is submitted: one after its
owner's last job in the queue, or the turn that is being served if he has none there. (Start-time fair queuing with
equal weights: Goyal, Vin, Cheng, SIGCOMM 1996.) The queue is then simply ordered by priority, turn and id, one index
serves it, and a job that is queued again keeps its place.

**Fencing.** A server holds what it runs by a lease, which it renews. ``attempts`` grows with every claim, and whoever
ends a job names the attempt he ran: an end that comes late, after the job was given to somebody else, is refused.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    MetaData,
    Row,
    SmallInteger,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from illustrious.database import Database
from illustrious.errors import InvalidRequest, NotFound, QueueFull
from illustrious.jobs import TERMINAL, Failure, Job, Priority, State, Submission
from illustrious.writer import Writer

T = TypeVar("T")

MAX_DEATHS = 3
"""A job whose worker died this often while it ran alone is failed: it is the job."""

KEY_RETENTION = 48 * 3600.0
"""Seconds an idempotency key is remembered."""

_CHUNK = 500  # ids in one query; databases limit them

_PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")

jobs = Table(
    "jobs",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("kind", Text),
    Column("state", Text),
    Column("priority", SmallInteger),  # position in _PRIORITIES
    Column("turn", BigInteger),
    Column("owner", Text),
    Column("request", JSON),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("warnings", JSON),
    Column("attempts", Integer),
    Column("deaths", Integer),
    Column("alone", Boolean),
    Column("cancel_requested", Boolean),
    Column("created", Double),  # this and the other times: seconds since 1970, UTC
    Column("started", Double),
    Column("finished", Double),
    Column("worker", Text),  # the server that runs it
    Column("lease", Double),  # until when it does unless it says so again
    Column("parent", Text),
    Column("idempotency_key", Text),
    Column("fingerprint", Text),
    Column("request_id", Text),
)

_job_columns = [jobs.c[name] for name in Job.model_fields]
_queued = jobs.c.state == literal_column("'queued'")  # literal, so that the planner sees the partial index
_running = jobs.c.state == literal_column("'running'")
_place = (jobs.c.priority, jobs.c.turn, jobs.c.id)
_this_attempt = and_(jobs.c.id == bindparam("job_id"), jobs.c.attempts == bindparam("attempt"), _running)
_released: dict[str, Any] = {"worker": null(), "lease": null()}

_BY_ID = select(*_job_columns).where(jobs.c.id == bindparam("job_id"))
_BY_KEY = select(jobs.c.fingerprint, jobs.c.id, jobs.c.created).where(
    jobs.c.owner == bindparam("owner"), jobs.c.idempotency_key == bindparam("key")
)
_same_priority = jobs.c.priority == bindparam("priority")
_STANDING = select(  # how many are queued, up to a limit; the turns of who is served, who is next, and the owner's last
    select(func.count())
    .select_from(select(jobs.c.id).where(_queued).limit(bindparam("most")).subquery())
    .scalar_subquery(),
    select(func.max(jobs.c.turn)).where(_running, _same_priority).scalar_subquery(),
    select(func.min(jobs.c.turn)).where(_queued, _same_priority).scalar_subquery(),
    select(func.max(jobs.c.turn) + 1)
    .where(_queued, _same_priority, jobs.c.owner == bindparam("owner"))
    .scalar_subquery(),
)
_INSERT = insert(jobs)
_HEAD = (
    select(jobs.c.id, jobs.c.alone)
    .where(_queued)
    .order_by(*_place)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)  # for PostgreSQL; SQLite has one writer, and it is us
)
_CLAIM = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("chosen", expanding=True)), _queued)
    .values(
        state="running",
        attempts=jobs.c.attempts + 1,
        started=bindparam("now"),
        worker=bindparam("new_worker"),
        lease=bindparam("until"),
    )
    .returning(*_job_columns)
)
_HEARTBEAT = (
    update(jobs)
    .where(_running, jobs.c.worker == bindparam("holder"))
    .values(lease=bindparam("until"))
    .returning(*_job_columns)
)


def _leaving(condition: ColumnElement[bool], *changed: str) -> ReturningUpdate[Any]:
    """A move out of running: sets these columns from ``new_…`` parameters, and gives up the lease."""
    values = {name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in changed}
    return update(jobs).where(_this_attempt, condition).values(**values, **_released).returning(jobs.c.id)


_not_cancelled = not_(jobs.c.cancel_requested)
_FINISH = _leaving(_not_cancelled, "state", "finished", "result", "warnings")
_FAIL = _leaving(_not_cancelled, "state", "finished", "error", "deaths")
_RELEASE = _leaving(_not_cancelled, "state", "started", "alone", "deaths")
_END_CANCELLED = _leaving(jobs.c.cancel_requested, "state", "finished", "cancel_requested")


class _Full(NamedTuple):
    """The answer to who comes too late. No exception: that would undo, and repeat, what shares the transaction."""

    depth: int


class JobStore:
    """The jobs of a database. Every method raises ``StorageFailed`` when it cannot be used.

    ``key_retention`` and ``job_retention`` are in seconds; finished jobs are kept for ever when the latter is None.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        now: Callable[[], float] = time.time,
        key_retention: float = KEY_RETENTION,
        job_retention: float | None = None,
    ) -> None:
        self._database = database
        self._writer = writer
        self._now = now
        self._key_retention = key_retention
        self._job_retention = job_retention
        self._run_time = 1.0  # of recent jobs, seconds

    # --- the moves ---------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, limit: int | None = None, workers: int = 1) -> tuple[Job, bool]:
        """The job, durable from here, and whether it is new: a known idempotency key gives the job it gave before.

        Raises ``InvalidRequest`` when that key came with another body; ``QueueFull`` when ``limit`` jobs are queued
        already, saying when ``workers`` at a time will have served a tenth of them.
        """
        now = self._now()
        fingerprint = submission.fingerprint or _fingerprint(submission)
        job = Job(
            id=new_id(now),
            state="queued",
            created=now,
            **submission.model_dump(exclude={"fingerprint"}),
        )
        oldest_key = now - self._key_retention

        def operation(connection: Connection) -> tuple[Job, bool] | _Full:
            return _submit(connection, job, fingerprint, oldest_key, limit)

        try:
            accepted = await self._writer.run(operation)
        except IntegrityError:  # another server took the same key just now: it is there to be found
            accepted = await self._writer.run(operation)
        if isinstance(accepted, _Full):
            seconds = max(1.0, self._run_time * accepted.depth / 10 / workers)
            raise QueueFull(f"{accepted.depth} jobs are waiting already; try again in about {seconds:.0f} s.", seconds)
        return accepted

    async def claim(self, worker: str, lease: float, limit: int = 1, idle: bool = True) -> list[Job]:
        """Up to ``limit`` jobs from the head of the queue, now running; they stay so for ``lease`` seconds.

        A job that must run alone is given only to the ``idle``, and then with no other. Nothing overtakes it: the
        busy get what is before it, and become idle.
        """
        now = self._now()
        parameters = {"now": now, "new_worker": worker, "until": now + lease}

        def operation(connection: Connection) -> list[Job]:
            chosen: list[str] = []
            for job_id, is_alone in connection.execute(_HEAD, {"most": limit}):
                if is_alone and (chosen or not idle):
                    break
                chosen.append(job_id)
                if is_alone:
                    break
            if not chosen:
                return []
            claimed = [_job(row) for row in connection.execute(_CLAIM, {**parameters, "chosen": chosen})]
            return sorted(claimed, key=lambda job: chosen.index(job.id))

        # A claim that a power cut takes back is a job that is still queued.
        return await self._writer.run(operation, durable=False)

    async def heartbeat(self, worker: str, lease: float) -> list[Job]:
        """Hold what this server runs for ``lease`` seconds from now; these are all of them."""
        parameters = {"holder": worker, "until": self._now() + lease}
        return await self._writer.run(
            lambda connection: [_job(row) for row in connection.execute(_HEARTBEAT, parameters)], durable=False
        )

    async def finish(self, job: Job, result: dict[str, Any], warnings: tuple[str, ...] = ()) -> Job | None:
        """running → succeeded. ``None``: refused, this attempt is over. Cancelled if that was asked for meanwhile."""
        finished = self._now()
        if job.started is not None:
            self._run_time += 0.1 * (max(0.0, finished - job.started) - self._run_time)
        changes = {"state": "succeeded", "finished": finished, "result": result, "warnings": warnings}
        return await self._leave(job, _FINISH, changes)

    async def fail(self, job: Job, error: Failure) -> Job | None:
        """running → failed. Returns as ``finish`` does."""
        return await self._leave(job, _FAIL, _failed(self._now(), error, job.deaths))

    async def release(self, job: Job) -> Job | None:
        """running → queued, at its old place: the server stops. Returns as ``finish`` does."""
        return await self._leave(job, _RELEASE, _queued_again(job.alone, job.deaths))

    async def worker_died(self, job: Job, ran_alone: bool) -> Job | None:
        """running → queued, to run alone; or → failed, when it ran alone for the ``MAX_DEATHS``-th time its worker
        died. Returns as ``finish`` does."""
        deaths = job.deaths + ran_alone
        if deaths < MAX_DEATHS:
            return await self._leave(job, _RELEASE, _queued_again(True, deaths))
        error = Failure(
            kind="WorkerDied",
            message=f"It ended its worker {MAX_DEATHS} times while it ran alone, most likely for want of memory. "
            "Make it smaller and submit it again; other jobs are not affected.",
        )
        return await self._leave(job, _FAIL, _failed(self._now(), error, deaths))

    async def cancel(self, job_id: str) -> Job:
        """queued → cancelled; a running job is marked, and ends cancelled whatever it does; one that is over stays as
        it is. Raises ``NotFound``."""
        now = self._now()

        def operation(connection: Connection) -> Job | None:
            found = _find(connection, job_id)
            if found is None or found.is_over:
                return found
            this = jobs.c.id == job_id
            statements: tuple[ReturningUpdate[Any], ...] = (
                update(jobs).where(this, _queued).values(state="cancelled", finished=now).returning(*_job_columns),
                update(jobs).where(this, _running).values(cancel_requested=True).returning(*_job_columns),
            )
            for statement in statements:
                row = connection.execute(statement).one_or_none()
                if row is not None:
                    return _job(row)
            return _find(connection, job_id)

        return _found(await self._writer.run(operation), job_id)

    async def recover(self, worker: str, starting: bool) -> list[Job]:
        """Queue again what nobody holds any more (or end it, if it was to be cancelled): jobs whose lease ran out
        elsewhere and, when this server is ``starting``, all it held before."""
        now = self._now()
        mine = jobs.c.worker == worker
        expired = jobs.c.lease < now
        lost = and_(_running, or_(mine, expired) if starting else and_(not_(mine), expired))

        def operation(connection: Connection) -> list[Job]:
            cancelled = (
                update(jobs)
                .where(lost, jobs.c.cancel_requested)
                .values(state="cancelled", finished=now, **_released)
                .returning(*_job_columns)
            )
            queued = update(jobs).where(lost).values(state="queued", started=null(), **_released)
            return [
                _job(row)
                for statement in (cancelled, queued.returning(*_job_columns))
                for row in connection.execute(statement)
            ]

        return await self._writer.run(operation)

    async def sweep(self) -> None:
        """Forget idempotency keys and finished jobs that are older than they are kept."""
        now = self._now()

        def operation(connection: Connection) -> None:
            old_key = and_(jobs.c.idempotency_key.is_not(None), jobs.c.created < now - self._key_retention)
            connection.execute(update(jobs).where(old_key).values(idempotency_key=null()))
            if self._job_retention is not None:
                connection.execute(delete(jobs).where(jobs.c.finished < now - self._job_retention))

        await self._writer.run(operation, durable=False)

    async def _leave(self, job: Job, statement: ReturningUpdate[Any], changes: dict[str, Any]) -> Job | None:
        """A move out of running. ``job`` is its row as it was claimed, so the row is now that with the changes."""
        cancelled = {"state": "cancelled", "finished": self._now(), "cancel_requested": True}
        this_attempt = {"job_id": job.id, "attempt": job.attempts}

        def operation(connection: Connection) -> Job | None:
            for move, after in ((statement, changes), (_END_CANCELLED, cancelled)):
                values = {f"new_{name}": _plain(value) for name, value in after.items()}
                if connection.execute(move, {**this_attempt, **values}).one_or_none() is not None:
                    return job.model_copy(update=after)
            return None

        return await self._writer.run(operation)

    # --- looking -----------------------------------------------------------------------------------------------

    async def get(self, job_id: str) -> Job:
        """Raises ``NotFound``."""
        return _found(await self._read(lambda connection: _find(connection, job_id)), job_id)

    async def ended(self, job_ids: Iterable[str]) -> tuple[Job, ...]:
        """Those of these jobs that are over."""
        wanted = list(job_ids)
        chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]

        def look(connection: Connection) -> tuple[Job, ...]:
            over = select(*_job_columns).where(jobs.c.state.in_(TERMINAL))
            return tuple(_job(row) for chunk in chunks for row in connection.execute(over.where(jobs.c.id.in_(chunk))))

        return await self._read(look) if chunks else ()

    async def page(
        self,
        state: State | None = None,
        owner: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[Job, ...]:
        """The newest first. ``cursor`` is the id of the last job of the page before."""
        query = select(*_job_columns).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if cursor is not None:
            query = query.where(jobs.c.id < cursor)
        return await self._read(lambda connection: tuple(_job(row) for row in connection.execute(query)))

    async def position(self, job_id: str) -> int | None:
        """How many jobs are before this one in the queue, about: other owners' next ones may come before it. ``None``
        when it is not queued."""

        def look(connection: Connection) -> int | None:
            place = connection.execute(select(*_place).where(_queued, jobs.c.id == job_id)).one_or_none()
            if place is None:
                return None
            before = select(func.count()).select_from(jobs).where(_queued, tuple_(*_place) < tuple_(*place))
            return connection.execute(before).scalar_one()

        return await self._read(look)

    async def counts(self) -> dict[str, int]:
        """Jobs by state; states without a job are left out."""
        query = select(jobs.c.state, func.count().label("total")).group_by(jobs.c.state)
        return await self._read(lambda connection: {row.state: row.total for row in connection.execute(query)})

    async def depth(self) -> int:
        """Jobs in the queue."""
        query = select(func.count()).select_from(jobs).where(_queued)
        return await self._read(lambda connection: connection.execute(query).scalar_one())

    async def _read(self, look: Callable[[Connection], T]) -> T:
        def blocking() -> T:
            with self._database.read() as connection:
                return look(connection)

        return await asyncio.to_thread(blocking)


def new_id(now: float) -> str:
    """32 hexadecimal digits that sort by time and cannot be guessed: RFC 9562's UUID version 7, without the dashes.

    ``now`` in seconds; the twelve bits after the milliseconds are their fraction (its section 6.2, method 3).
    """
    milliseconds, fraction = divmod(int(now * 1000 * 4096), 4096)
    return f"{milliseconds:012x}7{fraction:03x}{secrets.randbits(62) | 1 << 63:016x}"


def _submit(
    connection: Connection, job: Job, fingerprint: str, oldest_key: float, limit: int | None
) -> tuple[Job, bool] | _Full:
    if job.idempotency_key is not None:
        known = connection.execute(_BY_KEY, {"owner": job.owner, "key": job.idempotency_key}).one_or_none()
        if known is not None:
            if known.created >= oldest_key:
                if known.fingerprint != fingerprint:
                    raise InvalidRequest(
                        f"The idempotency key {job.idempotency_key!r} was sent before with another request; "
                        "send a new key with a new request.",
                        field="Idempotency-Key",
                    )
                return _job(connection.execute(_BY_ID, {"job_id": known.id}).one()), False
            connection.execute(update(jobs).where(jobs.c.id == known.id).values(idempotency_key=null()))
    priority = _PRIORITIES.index(job.priority)
    parameters = {"priority": priority, "owner": job.owner, "most": limit or 0}
    depth, served, head, own = connection.execute(_STANDING, parameters).one()
    if limit is not None and depth >= limit:
        return _Full(depth)
    turn = max(served or 0, head or 0, own or 0)
    connection.execute(_INSERT, {**job.model_dump(), "priority": priority, "turn": turn, "fingerprint": fingerprint})
    return job, True


def _failed(finished: float, error: Failure, deaths: int) -> dict[str, Any]:
    return {"state": "failed", "finished": finished, "error": error, "deaths": deaths}


def _queued_again(alone: bool, deaths: int) -> dict[str, Any]:
    return {"state": "queued", "started": None, "alone": alone, "deaths": deaths}


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Failure) else value


def _fingerprint(submission: Submission) -> str:
    text = json.dumps([submission.kind, submission.request], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _find(connection: Connection, job_id: str) -> Job | None:
    if "\0" in job_id:  # which PostgreSQL cannot even look for
        return None
    row = connection.execute(_BY_ID, {"job_id": job_id}).one_or_none()
    return None if row is None else _job(row)


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NotFound(f"There is no job {job_id!r} here.")
    return job


def _job(row: Row[Any]) -> Job:
    values = dict(zip(Job.model_fields, row, strict=True))
    values["priority"] = _PRIORITIES[values["priority"]]
    return Job(**values)
