"""Jobs given to performers: in turn, alone when they must be, and never lost."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from illustrious.errors import EngineFailed, NotFound, QueueFull, StorageFailed, Unavailable, WorkerDied
from illustrious.jobs import Job, Outcome, Report, Submission
from illustrious.jobs.events import EventLog
from illustrious.jobs.runner import Runner
from illustrious.jobs.store import JobStore


class Stage:
    """A performer whose jobs end when the test says so."""

    def __init__(self, name: str = "stage", capacity: int = 1) -> None:
        self.name = name
        self.capacity = capacity
        self.now: dict[str, tuple[asyncio.Future[Outcome], Report]] = {}
        self.begun: list[Job] = []
        self.stopped: list[str] = []
        self.together: list[set[str]] = []
        self._changed = asyncio.Condition()

    async def perform(self, job: Job, report: Report) -> Outcome:
        end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.now[job.id] = (end, report)
        self.begun.append(job)
        self.together.append(set(self.now))
        await self._tell()
        try:
            return await end
        except asyncio.CancelledError:
            self.stopped.append(job.id)
            raise
        finally:
            if self.now[job.id][0] is end:  # else it has been begun again meanwhile
                del self.now[job.id]
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, count: int) -> list[str]:
        """The jobs on stage once there are so many."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.now) == count)
        return list(self.now)

    async def until_begun(self, count: int) -> None:
        """So many were begun in all."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) == count)

    async def until_stopped(self, job_id: str) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: job_id in self.stopped)

    def end(self, job_id: str, outcome: Outcome | BaseException | None = None) -> None:
        future = self.now[job_id][0]
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome or Outcome(result={"of": job_id}))

    def die(self) -> None:
        for job_id in list(self.now):
            self.end(job_id, WorkerDied("The worker ended."))


class Eager:
    """A performer that is done at once."""

    name = "eager"

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity

    async def perform(self, job: Job, report: Report) -> Outcome:
        await asyncio.sleep(0)
        return Outcome(result={"of": job.id})


@asynccontextmanager
async def running(
    store: JobStore, *performers: Any, lease: float = 3600.0, poll: float = 3600.0, **options: Any
) -> AsyncIterator[Runner]:
    """Without the safety nets, unless the test is about them: what must happen must be told, not found out."""
    runner = Runner(store, EventLog(), performers, lease=lease, poll=poll, **options)
    await runner.start()
    try:
        async with asyncio.timeout(30):
            yield runner
    finally:
        await runner.drain(within=0)


async def submit(runner: Runner, owner: str = "anna", **more: Any) -> str:
    job, _ = await runner.submit(Submission(kind="test", request={}, owner=owner, **more))
    return job.id


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_a_submitted_job_is_done_and_whoever_waits_is_told(store: JobStore) -> None:
    async with running(store, Eager()) as runner:
        jobs = [await submit(runner) for _ in range(20)]
        done = await asyncio.gather(*(runner.wait(job) for job in jobs))
        assert [(job.state, job.result) for job in done] == [("succeeded", {"of": job}) for job in jobs]
        assert (await runner.wait(jobs[0])) == await store.get(jobs[0])


async def test_a_submission_wakes_the_runner_at_once(store: JobStore) -> None:
    async with running(store, Eager()) as runner:
        for _ in range(3):
            assert (await runner.wait(await submit(runner))).state == "succeeded"


async def test_no_more_are_begun_than_there_is_room_for(store: JobStore) -> None:
    stage = Stage(capacity=2)
    async with running(store, stage) as runner:
        jobs = [await submit(runner) for _ in range(4)]
        assert await stage.until(2) == jobs[:2]
        stage.end(jobs[0])
        await runner.wait(jobs[0])
        assert set(await stage.until(2)) == {jobs[1], jobs[2]}


async def test_the_next_one_begins_while_the_end_of_the_last_is_being_written(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    may_write = asyncio.Event()
    finish = store.finish

    async def slow(job: Job, result: dict[str, Any], warnings: tuple[str, ...] = ()) -> Job | None:
        await may_write.wait()
        return await finish(job, result, warnings)

    monkeypatch.setattr(store, "finish", slow)
    async with running(store, stage) as runner:
        first, second = await submit(runner), await submit(runner)
        await stage.until(1)
        stage.end(first)
        await stage.until(0)
        assert await stage.until(1) == [second]
        assert (await store.get(first)).state == "running"
        may_write.set()
        assert (await runner.wait(first)).state == "succeeded"


async def test_room_that_opens_is_used_when_told(store: JobStore) -> None:
    stage = Stage(capacity=0)
    async with running(store, stage) as runner:
        job = await submit(runner)
        await store.get(job)
        assert not stage.now
        stage.capacity = 1
        runner.wake()
        assert await stage.until(1) == [job]


async def test_the_load_spreads_over_performers(store: JobStore) -> None:
    stages = [Stage(str(number), capacity=2) for number in range(2)]
    for _ in range(2):
        await store.submit(Submission(kind="test", request={}))
    async with running(store, *stages):
        assert [len(await stage.until(1)) for stage in stages] == [1, 1]


async def test_the_story_of_a_job_is_told_as_it_happens(store: JobStore) -> None:
    stage = Stage()
    async with running(store, stage) as runner:
        job = await submit(runner)
        await stage.until(1)
        story: list[Any] = []
        async with aclosing(runner.follow(job)) as events:
            async for event in events:
                story.append(event.data["state"] if event.name == "state" else (event.name, event.data))
                if story[-1] == "running":
                    stage.now[job][1]("step", {"step": 1, "steps": 2})
                elif event.name == "step":
                    stage.now[job][1]("preview", {"image": b"p"})
                elif event.name == "preview":
                    stage.end(job, Outcome(result={"image": "x"}, warnings=("w",)))
        assert story == [
            "queued",
            "running",
            ("step", {"step": 1, "steps": 2}),
            ("preview", {"image": b"p"}),
            ("result", {"image": "x", "warnings": ["w"]}),
            "succeeded",
        ]


async def test_an_ended_job_is_told_from_its_row_by_a_later_server(store: JobStore) -> None:
    async with running(store, Eager()) as runner:
        job = await submit(runner)
        await runner.wait(job)
    async with running(store, Eager()) as runner:
        assert [event.name for event in [event async for event in runner.follow(job)]] == ["result", "state"]
        assert (await runner.wait(job)).result == {"of": job}
        for look in (runner.wait, runner.cancel):
            with pytest.raises(NotFound):
                await look("nothing")


async def test_a_refused_job_fails_with_the_performers_words_and_others_go_on(store: JobStore) -> None:
    stage = Stage(capacity=2)
    async with running(store, stage) as runner:
        bad, good = await submit(runner), await submit(runner)
        await stage.until(2)
        stage.end(bad, EngineFailed("Too large for this device; ask for a smaller picture."))
        stage.end(good)
        failed = await runner.wait(bad)
        assert failed.error is not None
        assert (failed.state, failed.error.kind) == ("failed", "EngineFailed")
        assert failed.error.message == "Too large for this device; ask for a smaller picture."
        assert (await runner.wait(good)).state == "succeeded"


@pytest.mark.parametrize("mistake", [ZeroDivisionError("x"), asyncio.CancelledError()])
async def test_a_mistake_in_a_performer_fails_its_job_only(
    store: JobStore, caplog: pytest.LogCaptureFixture, mistake: BaseException
) -> None:
    stage = Stage()
    async with running(store, stage) as runner:
        bad, good = await submit(runner), await submit(runner)
        await stage.until(1)
        stage.end(bad, mistake)
        failed = await runner.wait(bad)
        assert failed.error is not None and failed.error.kind == "InternalError"
        assert type(mistake).__name__ in caplog.text
        assert await stage.until(1) == [good]


async def test_cancelling_stops_what_runs_and_what_waits(store: JobStore) -> None:
    stage = Stage()
    async with running(store, stage) as runner:
        first, second, third = [await submit(runner) for _ in range(3)]
        await stage.until(1)
        assert (await runner.cancel(second)).state == "cancelled"
        assert (await runner.cancel(first)).cancel_requested
        assert [(await runner.wait(job)).state for job in (first, second)] == ["cancelled", "cancelled"]
        assert await stage.until(1) == [third]
        assert stage.stopped == [first]
        assert [job.id for job in stage.begun] == [first, third]


async def test_after_a_workers_death_its_jobs_run_again_one_at_a_time(store: JobStore) -> None:
    stage = Stage(capacity=3)
    async with running(store, stage) as runner:
        shared = [await submit(runner) for _ in range(3)]
        later = [await submit(runner) for _ in range(3)]
        await stage.until(3)
        stage.die()
        for _ in shared:
            (alone,) = await stage.until(1)
            assert stage.begun[-1].alone and stage.begun[-1].deaths == 0
            stage.end(alone)
            await runner.wait(alone)
        assert await stage.until(3) == later
        assert stage.together[3:6] == [{job} for job in shared]
        assert [(await store.get(job)).attempts for job in shared] == [2, 2, 2]


async def test_nothing_overtakes_a_job_that_waits_for_an_idle_performer(store: JobStore) -> None:
    stages = [Stage(str(number), capacity=2) for number in range(2)]
    async with running(store, *stages) as runner:
        for _ in range(4):
            await submit(runner)
        elsewhere = await stages[1].until(2)
        first, second = await stages[0].until(2)
        later = await submit(runner)
        stages[0].die()
        await stages[0].until(0)
        assert await stages[0].until(1) == [first]
        for job in elsewhere:
            assert later not in stages[1].now, "there is room, but the second job that must run alone is before it"
            stages[1].end(job)
            await runner.wait(job)
        assert await stages[1].until(1) == [second]
        stages[0].end(first)
        await runner.wait(first)
        assert await stages[0].until(1) == [later]


async def test_a_job_that_kills_its_worker_is_failed_after_three_deaths_alone_and_harms_no_other(
    store: JobStore,
) -> None:
    stage = Stage(capacity=2)
    async with running(store, stage) as runner:
        killer, innocent = await submit(runner), await submit(runner)
        await stage.until(2)
        stage.die()
        for _ in range(3):
            assert await stage.until(1) == [killer]
            stage.die()
            await stage.until(0)
        failed = await runner.wait(killer)
        assert failed.error is not None and "ended its worker 3 times" in failed.error.message
        assert (failed.state, failed.attempts, failed.deaths) == ("failed", 4, 3)
        assert await stage.until(1) == [innocent]
        stage.end(innocent)
        assert (await runner.wait(innocent)).state == "succeeded"


async def test_a_full_queue_refuses_and_opens_again(store: JobStore) -> None:
    stage = Stage()
    async with running(store, stage, queue_limit=1) as runner:
        first = await submit(runner)
        await stage.until(1)
        await submit(runner)
        with pytest.raises(QueueFull):
            await submit(runner)
        stage.end(first)
        await runner.wait(first)
        await stage.until(1)
        await submit(runner)


async def test_the_same_key_gives_the_same_job_and_result(store: JobStore) -> None:
    async with running(store, Eager()) as runner:
        jobs = await asyncio.gather(*(submit(runner, idempotency_key="k") for _ in range(10)))
        assert len(set(jobs)) == 1
        await runner.wait(jobs[0])
        assert await submit(runner, idempotency_key="k") == jobs[0]


async def test_draining_lets_jobs_end_and_keeps_the_rest_for_the_next_server(store: JobStore) -> None:
    stage = Stage(capacity=2)
    async with running(store, stage) as runner:
        quick, slow, queued = [await submit(runner) for _ in range(3)]
        await stage.until(2)
        waiter = asyncio.create_task(runner.wait(queued))
        await asyncio.sleep(0)
        draining = asyncio.create_task(runner.drain(within=0.2))
        stage.end(quick)
        await draining
        with pytest.raises(Unavailable, match="kept"):
            await waiter
    assert (await store.get(quick)).state == "succeeded"
    left = [await store.get(job) for job in (slow, queued)]
    assert [(job.state, job.alone, job.deaths) for job in left] == [("queued", False, 0)] * 2
    assert stage.stopped == [slow]
    async with running(store, Eager()) as runner:
        assert [(await runner.wait(job)).state for job in (slow, queued)] == ["succeeded"] * 2


async def test_what_a_dead_server_held_runs_again_and_its_late_answer_is_refused(store: JobStore) -> None:
    job, _ = await store.submit(Submission(kind="test", request={}))
    (held,) = await store.claim("server", lease=30.0)
    async with running(store, Eager()) as runner:
        assert (await runner.wait(job.id)).attempts == 2
        assert await store.finish(held, {"late": True}) is None


async def test_what_another_server_cancels_or_takes_is_stopped_here(store: JobStore) -> None:
    stage = Stage(capacity=2)
    async with running(store, stage, lease=1.0) as runner:
        cancelled, taken = await submit(runner), await submit(runner)
        await stage.until(2)
        await store.cancel(cancelled)
        assert (await runner.wait(cancelled)).state == "cancelled"
        mine = await store.get(taken)
        await store.release(mine)
        await stage.until_begun(3)
        assert await stage.until(1) == [taken]
        assert stage.begun[-1].id == taken and stage.begun[-1].attempts == 2
        await stage.until_stopped(taken)  # the first attempt: it may end after the second has begun


async def test_a_job_that_ends_elsewhere_is_noticed(store: JobStore) -> None:
    async with running(store, Stage(capacity=0), poll=0.02) as runner:
        job = await submit(runner)
        waiter = asyncio.create_task(runner.wait(job))
        (claimed,) = await store.claim("other", lease=30.0)
        await store.finish(claimed, {"from": "other"})
        assert (await waiter).result == {"from": "other"}


async def test_a_finished_picture_outlives_a_locked_database(
    sqlite_store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    refused = asyncio.Event()
    finish = sqlite_store.finish

    async def noted(job: Job, result: dict[str, Any], warnings: tuple[str, ...] = ()) -> Job | None:
        try:
            return await finish(job, result, warnings)
        except StorageFailed:
            refused.set()
            raise

    monkeypatch.setattr(sqlite_store, "finish", noted)
    async with running(sqlite_store, stage) as runner:
        job = await submit(runner)
        await stage.until(1)
        with locked(tmp_path / "studio.db"):
            with pytest.raises(StorageFailed, match="try again"):
                await submit(runner)
            stage.end(job, Outcome(result={"drawn": "once"}))
            await refused.wait()
        assert (await runner.wait(job)).result == {"drawn": "once"}
        assert len(stage.begun) == 1


async def test_the_queue_goes_on_after_the_database_was_locked(sqlite_store: JobStore, tmp_path: Path) -> None:
    stage = Stage(capacity=0)
    async with running(sqlite_store, stage, poll=0.02) as runner:
        jobs = [await submit(runner) for _ in range(3)]
        with locked(tmp_path / "studio.db"):
            stage.capacity = 3
            runner.wake()
            with pytest.raises(StorageFailed):
                await runner.cancel(jobs[0])
            assert not stage.now
        assert await stage.until(3) == jobs


async def test_draining_with_a_locked_database_ends_and_loses_nothing(sqlite_store: JobStore, tmp_path: Path) -> None:
    stage = Stage()
    async with running(sqlite_store, stage) as runner:
        job = await submit(runner)
        await stage.until(1)
        with locked(tmp_path / "studio.db"):
            await runner.drain(within=0.1)
    assert (await sqlite_store.get(job)).state == "running"
    async with running(sqlite_store, Eager()) as runner:
        assert (await runner.wait(job)).state == "succeeded"
