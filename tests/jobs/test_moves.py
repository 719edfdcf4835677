"""Any sequence of moves, against a model small enough to be seen to be right."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import select, text

from illustrious.database import Database
from illustrious.jobs import Failure, Job, Submission
from illustrious.jobs.store import MAX_DEATHS, JobStore
from illustrious.jobs.store import jobs as table
from illustrious.writer import Writer
from tests.jobs.conftest import Clock

LEASE = 100.0
SERVERS = ("one", "two")


@dataclass
class Model:
    """What is known of one job, by its owner's finger-counting."""

    id: str
    owner: str
    priority: str
    round: int
    state: str = "queued"
    attempts: int = 0
    deaths: int = 0
    alone: bool = False
    must_stop: bool = False
    server: str | None = None
    held_until: float = 0.0


@dataclass
class Queue:
    jobs: dict[str, Model] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, state: str, priority: str) -> list[Model]:
        return [job for job in self.jobs.values() if job.state == state and job.priority == priority]

    def round_for(self, owner: str, priority: str) -> int:
        """After the owner's own, else together with those who are served now."""
        waiting = self.of("queued", priority)
        own = [job.round + 1 for job in waiting if job.owner == owner]
        served = [job.round for job in self.of("running", priority)] + [min((job.round for job in waiting), default=0)]
        return max(own + served)

    def head(self) -> Model | None:
        waiting = [job for priority in ("interactive", "batch") for job in self.of("queued", priority)]
        return min(waiting, key=lambda job: (job.priority != "interactive", job.round, job.id), default=None)

    def to_be_claimed(self, limit: int, idle: bool) -> list[str]:
        """Claims them, too."""
        claimed: list[str] = []
        while len(claimed) < limit and (head := self.head()) is not None:
            if head.alone and not (idle and not claimed):
                break
            head.state = "running"
            claimed.append(head.id)
            if head.alone:
                break
        return claimed


def moves(database: Database) -> type[RuleBasedStateMachine]:
    class Moves(RuleBasedStateMachine):
        ids = Bundle("ids")
        attempts = Bundle("attempts")

        def __init__(self) -> None:
            super().__init__()
            with database.begin() as connection:
                connection.execute(text("DELETE FROM jobs"))
            self.loop = asyncio.Runner()
            self.clock = Clock()
            self.writer = Writer(database)
            self.store = JobStore(database, self.writer, now=self.clock)
            self.queue = Queue()

        def teardown(self) -> None:
            self.loop.run(self.writer.close())
            self.loop.close()

        @rule(
            target=ids,
            owner=st.sampled_from(["anna", "ben", "cleo"]),
            priority=st.sampled_from(["interactive", "batch"]),
            key=st.sampled_from([None, None, "k1", "k2"]),
        )
        def submit(self, owner: str, priority: str, key: str | None) -> str:
            submission = Submission.model_validate(
                {"kind": "test", "request": {}, "owner": owner, "priority": priority, "idempotency_key": key}
            )
            job, is_new = self.loop.run(self.store.submit(submission))
            known = self.queue.keys.get((owner, key)) if key else None
            assert is_new == (known is None)
            if known is not None:
                assert job.id == known
                return job.id
            if key:
                self.queue.keys[owner, key] = job.id
            self.queue.jobs[job.id] = Model(job.id, owner, priority, self.queue.round_for(owner, priority))
            return job.id

        @rule(
            target=attempts,
            server=st.sampled_from(SERVERS),
            limit=st.integers(1, 3),
            idle=st.booleans(),
        )
        def claim(self, server: str, limit: int, idle: bool) -> object:
            claimed = self.loop.run(self.store.claim(server, LEASE, limit, idle))
            assert [job.id for job in claimed] == self.queue.to_be_claimed(limit, idle)
            for job in claimed:
                model = self.queue.jobs[job.id]
                model.attempts += 1
                model.server, model.held_until = server, self.clock.now + LEASE
            return multiple(*claimed)

        def leave(self, attempt: Job, after: Job | None, state: str) -> None:
            """A move out of running was tried by whoever ran this attempt."""
            model = self.queue.jobs[attempt.id]
            if model.state != "running" or model.attempts != attempt.attempts:
                assert after is None
                return
            model.state = "cancelled" if model.must_stop else state
            assert after is not None and after.state == model.state

        @rule(attempt=attempts)
        def finish(self, attempt: Job) -> None:
            after = self.loop.run(self.store.finish(attempt, {"attempt": attempt.attempts}))
            self.leave(attempt, after, "succeeded")
            if after is not None and after.state == "succeeded":
                assert after.result == {"attempt": attempt.attempts}

        @rule(attempt=attempts)
        def fail(self, attempt: Job) -> None:
            self.leave(attempt, self.loop.run(self.store.fail(attempt, Failure(kind="k", message="m"))), "failed")

        @rule(attempt=attempts)
        def release(self, attempt: Job) -> None:
            self.leave(attempt, self.loop.run(self.store.release(attempt)), "queued")

        @rule(attempt=attempts, ran_alone=st.booleans())
        def worker_died(self, attempt: Job, ran_alone: bool) -> None:
            after = self.loop.run(self.store.worker_died(attempt, ran_alone))
            deaths = attempt.deaths + ran_alone
            self.leave(attempt, after, "failed" if deaths == MAX_DEATHS else "queued")
            model = self.queue.jobs[attempt.id]
            if after is not None and model.state != "cancelled":
                model.deaths = deaths
                model.alone = model.alone or model.state == "queued"

        @rule(job_id=ids)
        def cancel(self, job_id: str) -> None:
            model = self.queue.jobs[job_id]
            if model.state == "queued":
                model.state = "cancelled"
            elif model.state == "running":
                model.must_stop = True
            assert self.loop.run(self.store.cancel(job_id)).state == model.state

        @rule(server=st.sampled_from(SERVERS))
        def heartbeat(self, server: str) -> None:
            held = self.loop.run(self.store.heartbeat(server, LEASE))
            mine = [job for job in self.queue.jobs.values() if job.state == "running" and job.server == server]
            assert {job.id for job in held} == {job.id for job in mine}
            for job in mine:
                job.held_until = self.clock.now + LEASE

        @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
        def time_passes(self, seconds: float) -> None:
            self.clock.now += seconds

        @rule(server=st.sampled_from(SERVERS), starting=st.booleans())
        def recover(self, server: str, starting: bool) -> None:
            recovered = self.loop.run(self.store.recover(server, starting))
            lost = [
                job
                for job in self.queue.jobs.values()
                if job.state == "running"
                and ((starting and job.server == server) or (job.server != server and job.held_until < self.clock.now))
            ]
            for job in lost:
                job.state = "cancelled" if job.must_stop else "queued"
            assert {(job.id, job.state) for job in recovered} == {(job.id, job.state) for job in lost}

        @invariant()
        def nothing_is_lost_and_nothing_is_different(self) -> None:
            stored = self.loop.run(self.store.page(limit=1000))
            assert [job.id for job in stored] == sorted(self.queue.jobs, reverse=True)
            with database.read() as connection:
                turns = {row.id: row.turn for row in connection.execute(select(table.c.id, table.c.turn))}
            assert turns == {job.id: job.round for job in self.queue.jobs.values()}
            for job in stored:
                model = self.queue.jobs[job.id]
                assert (job.state, job.attempts, job.alone) == (model.state, model.attempts, model.alone)
                assert (job.deaths, job.is_over) == (model.deaths, job.finished is not None)
                assert (job.state == "queued") <= (job.started is None)

    return Moves


@pytest.fixture
def any_database(url: str) -> Iterator[Database]:
    database = Database.open(url, synchronous="OFF")
    yield database
    database.close()


def test_every_sequence_of_moves_does_what_the_model_does(any_database: Database) -> None:
    run_state_machine_as_test(
        moves(any_database),
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
