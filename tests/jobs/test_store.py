"""The moves of a job, in the database."""

import asyncio
import json
from itertools import pairwise

import pytest

from illustrious.database import Database
from illustrious.errors import InvalidRequest, NotFound, QueueFull, StorageFailed
from illustrious.jobs import Failure, Job, Submission
from illustrious.jobs.store import JobStore, new_id
from illustrious.writer import Writer
from tests.jobs.conftest import Clock

ME = "this server"
APPLE = Submission(kind="image", request={"prompt": "an apple \x00 ☃", "seed": 2**53 - 1}, owner="anna")


async def submit(store: JobStore, owner: str, **more: object) -> Job:
    submission = Submission.model_validate({"kind": "image", "request": {}, "owner": owner, **more})
    job, is_new = await store.submit(submission)
    assert is_new
    return job


async def claim(store: JobStore, limit: int = 1, idle: bool = True) -> list[Job]:
    return await store.claim(ME, lease=30.0, limit=limit, idle=idle)


async def served(store: JobStore) -> list[str]:
    """The owners of all jobs in the queue, in the order they are served."""
    return [job.owner for job in await claim(store, limit=1000)]


async def test_a_job_is_what_was_submitted_until_it_is_over(store: JobStore) -> None:
    job, is_new = await store.submit(APPLE)
    assert is_new and job.state == "queued" and job.request == APPLE.request
    assert await store.get(job.id) == job
    (running,) = await claim(store)
    assert (running.id, running.state, running.attempts) == (job.id, "running", 1)
    done = await store.finish(running, {"images": ["a"]}, ("The prompt was cut.",))
    assert done is not None and done == await store.get(job.id)
    assert (done.state, done.result, done.warnings) == ("succeeded", {"images": ["a"]}, ("The prompt was cut.",))
    assert done.started is not None and done.finished is not None
    assert job.created < done.started < done.finished


async def test_a_failed_job_says_why_and_can_be_submitted_again(store: JobStore) -> None:
    job = await submit(store, "anna")
    (running,) = await claim(store)
    failed = await store.fail(running, Failure(kind="EngineFailed", message="No memory."))
    assert failed is not None and failed.state == "failed"
    assert failed.error == Failure(kind="EngineFailed", message="No memory.")
    again = await submit(store, "anna", request=job.request, parent=job.id)
    assert (await store.get(again.id)).parent == job.id


async def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for job_id in ("nothing", "a\0b"):
        for look in (store.get, store.cancel):
            with pytest.raises(NotFound):
                await look(job_id)
    assert await store.position("nothing") is None


async def test_one_owner_is_served_in_the_order_he_came(store: JobStore) -> None:
    submitted = [(await submit(store, "anna")).id for _ in range(5)]
    assert [job.id for job in await claim(store, limit=10)] == submitted


async def test_a_batch_of_a_hundred_does_not_starve_one_picture(store: JobStore) -> None:
    for _ in range(100):
        await submit(store, "batch")
    await claim(store, limit=10)
    await submit(store, "single")
    assert (await served(store)).index("single") <= 1


async def test_owners_take_turns(store: JobStore) -> None:
    for owner in ("anna", "anna", "anna", "ben", "ben", "ben", "cleo"):
        await submit(store, owner)
    assert await served(store) == ["anna", "ben", "cleo", "anna", "ben", "anna", "ben"]


async def test_who_was_served_before_does_not_get_his_past_turns_back(store: JobStore) -> None:
    for _ in range(20):
        await submit(store, "early")
    await claim(store, limit=10)
    for _ in range(3):
        await submit(store, "late")
    assert (await served(store))[:6] in (["early", "late"] * 3, ["late", "early"] * 3)


async def test_who_comes_while_nothing_runs_joins_the_round_and_does_not_overtake_it(store: JobStore) -> None:
    for _ in range(10):
        await submit(store, "early")
    for job in await claim(store, limit=5):
        await store.finish(job, {})
    for _ in range(5):
        await submit(store, "late")
    assert await served(store) == ["early", "late"] * 5


async def test_interactive_comes_before_batch(store: JobStore) -> None:
    await submit(store, "a", priority="batch")
    await submit(store, "b", priority="interactive")
    assert await served(store) == ["b", "a"]


async def test_position_counts_who_is_before(store: JobStore) -> None:
    batch = await submit(store, "a", priority="batch")
    first, second = await submit(store, "a"), await submit(store, "a")
    assert [await store.position(job.id) for job in (first, second, batch)] == [0, 1, 2]
    await claim(store)
    assert [await store.position(job.id) for job in (first, second, batch)] == [None, 0, 1]


async def test_the_same_key_and_body_give_the_same_job(store: JobStore, clock: Clock) -> None:
    keyed = APPLE.model_copy(update={"idempotency_key": "k"})
    job, _ = await store.submit(keyed)
    assert await store.submit(keyed) == (job, False)
    (running,) = await claim(store)
    done = await store.finish(running, {"image": "x"})
    assert await store.submit(keyed) == (done, False)
    _, is_new = await store.submit(keyed.model_copy(update={"owner": "ben"}))
    assert is_new, "keys of one owner are nothing to another"


async def test_the_same_key_with_another_body_is_refused(store: JobStore) -> None:
    await store.submit(APPLE.model_copy(update={"idempotency_key": "k"}))
    with pytest.raises(InvalidRequest, match="another request"):
        await store.submit(APPLE.model_copy(update={"idempotency_key": "k", "request": {"prompt": "a pear"}}))
    assert await store.depth() == 1


async def test_what_was_sent_is_compared_not_what_was_made_of_it(store: JobStore) -> None:
    """A seed that was drawn by the server differs each time."""
    sent = {"kind": "image", "idempotency_key": "k", "fingerprint": "of the body"}
    job, _ = await store.submit(Submission.model_validate({**sent, "request": {"seed": 1}}))
    again, is_new = await store.submit(Submission.model_validate({**sent, "request": {"seed": 2}}))
    assert again == job and not is_new


async def test_the_same_key_many_times_at_once_gives_one_job(store: JobStore) -> None:
    keyed = APPLE.model_copy(update={"idempotency_key": "k"})
    answers = await asyncio.gather(*(store.submit(keyed) for _ in range(50)))
    assert len({job.id for job, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1


async def test_two_servers_that_get_the_same_key_at_once_agree(url: str, store: JobStore, clock: Clock) -> None:
    other_database = Database.open(url)
    other_writer = Writer(other_database)
    other = JobStore(other_database, other_writer, now=clock)
    keyed = [Submission(kind="image", request={}, idempotency_key=f"k{number}") for number in range(30)]
    answers = await asyncio.gather(*(server.submit(one) for one in keyed for server in (store, other)))
    await other_writer.close()
    other_database.close()
    assert len({job.id for job, _ in answers}) == 30
    assert await store.depth() == 30


async def test_two_servers_never_claim_the_same_job(url: str, store: JobStore) -> None:
    other_database = Database.open(url)
    other_writer = Writer(other_database)
    other = JobStore(other_database, other_writer)
    for _ in range(40):
        await submit(store, "anna")
    claimed = await asyncio.gather(*(server.claim("any", 30.0) for _ in range(20) for server in (store, other)))
    await other_writer.close()
    other_database.close()
    ids = [job.id for jobs in claimed for job in jobs]
    assert len(ids) == len(set(ids)) == 40


async def test_keys_are_forgotten_in_time_and_results_are_not(database: Database, writer: Writer, clock: Clock) -> None:
    store = JobStore(database, writer, now=clock, key_retention=100.0)
    keyed = APPLE.model_copy(update={"idempotency_key": "k"})
    first, _ = await store.submit(keyed)
    clock.now += 99
    assert not (await store.submit(keyed))[1]
    clock.now += 2
    second, is_new = await store.submit(keyed)
    assert is_new and second.id != first.id, "without waiting for the sweep"
    clock.now += 101
    await store.sweep()
    assert (await store.get(second.id)).idempotency_key is None
    assert await store.depth() == 2


async def test_finished_jobs_are_dropped_only_when_so_configured(
    database: Database, writer: Writer, clock: Clock
) -> None:
    store = JobStore(database, writer, now=clock, job_retention=100.0)
    old, young, queued = [await submit(store, "anna") for _ in range(3)]
    await store.cancel(old.id)
    clock.now += 100
    await store.cancel(young.id)
    await JobStore(database, writer, now=clock).sweep()
    assert await store.counts() == {"cancelled": 2, "queued": 1}
    await store.sweep()
    assert [job.id for job in await store.page()] == [queued.id, young.id]


async def test_a_full_queue_says_when_to_come_back(store: JobStore) -> None:
    for _ in range(3):
        await store.submit(APPLE, limit=3)
    with pytest.raises(QueueFull, match="3 jobs are waiting") as refused:
        await store.submit(APPLE, limit=3)
    assert refused.value.retry_after >= 1.0
    await claim(store)
    await store.submit(APPLE, limit=3)


async def test_a_full_queue_still_knows_its_keys(store: JobStore) -> None:
    keyed = APPLE.model_copy(update={"idempotency_key": "k"})
    job, _ = await store.submit(keyed, limit=1)
    assert await store.submit(keyed, limit=1) == (job, False)


async def test_a_cancelled_queued_job_never_runs(store: JobStore) -> None:
    job = await submit(store, "anna")
    assert (await store.cancel(job.id)).state == "cancelled"
    assert await claim(store) == []
    assert (await store.cancel(job.id)).state == "cancelled"


@pytest.mark.parametrize("end", ["finish", "fail", "release", "worker_died"])
async def test_a_running_job_ends_cancelled_whatever_it_does(store: JobStore, end: str) -> None:
    job = await submit(store, "anna")
    (running,) = await claim(store)
    marked = await store.cancel(job.id)
    assert marked.state == "running" and marked.cancel_requested
    ends = {
        "finish": lambda: store.finish(running, {"late": True}),
        "fail": lambda: store.fail(running, Failure(kind="x", message="y")),
        "release": lambda: store.release(running),
        "worker_died": lambda: store.worker_died(running, ran_alone=True),
    }
    ended = await ends[end]()
    assert ended is not None
    assert (ended.state, ended.result, ended.error) == ("cancelled", None, None)


async def test_an_end_that_comes_late_is_refused(store: JobStore, clock: Clock) -> None:
    await submit(store, "anna")
    (first,) = await store.claim("slow server", lease=30.0)
    clock.now += 31
    await store.recover("other server", starting=False)
    (second,) = await store.claim("other server", lease=30.0)
    assert (second.id, second.attempts) == (first.id, 2)
    assert await store.finish(first, {"from": "slow"}) is None
    done = await store.finish(second, {"from": "other"})
    assert done is not None and done.result == {"from": "other"}
    assert await store.finish(second, {"from": "twice"}) is None
    assert await store.release(second) is None


async def test_a_starting_server_takes_up_what_it_held_and_leaves_what_others_hold(store: JobStore) -> None:
    for _ in range(2):
        await submit(store, "anna")
    (mine,) = await store.claim(ME, 30.0)
    (others,) = await store.claim("other", 30.0)
    (recovered,) = await store.recover(ME, starting=True)
    assert (recovered.id, recovered.state, recovered.attempts) == (mine.id, "queued", 1)
    assert (await store.get(others.id)).state == "running"


async def test_a_running_server_is_not_robbed_of_what_it_renews(store: JobStore, clock: Clock) -> None:
    await submit(store, "anna")
    (running,) = await claim(store)
    clock.now += 29
    assert [job.id for job in await store.heartbeat(ME, 30.0)] == [running.id]
    clock.now += 29
    assert await store.recover("other", starting=True) == []
    clock.now += 2
    assert await store.recover(ME, starting=False) == [], "a server that slept does not rob itself"
    assert [job.id for job in await store.recover("other", starting=True)] == [running.id]


async def test_a_job_to_be_cancelled_is_not_run_again_by_the_next_server(store: JobStore) -> None:
    job = await submit(store, "anna")
    await claim(store)
    await store.cancel(job.id)
    (ended,) = await store.recover(ME, starting=True)
    assert ended.state == "cancelled"


async def test_a_job_queued_again_keeps_its_place(store: JobStore) -> None:
    first, second = await submit(store, "anna"), await submit(store, "anna")
    (running,) = await claim(store)
    await store.release(running)
    assert [job.id for job in await claim(store, limit=2)] == [first.id, second.id]


async def test_after_its_workers_death_a_job_runs_alone_and_nothing_overtakes_it(store: JobStore) -> None:
    for _ in range(4):
        await submit(store, "anna")
    one, two = await claim(store, limit=2)
    for job in (one, two):
        released = await store.worker_died(job, ran_alone=False)
        assert released is not None and (released.state, released.alone, released.deaths) == ("queued", True, 0)
    assert await claim(store, limit=5, idle=False) == []
    assert [job.id for job in await claim(store, limit=5)] == [one.id]
    assert [job.id for job in await claim(store, limit=5)] == [two.id]
    assert len(await claim(store, limit=5, idle=False)) == 2


async def test_a_job_that_must_run_alone_is_not_taken_with_those_before_it(store: JobStore) -> None:
    for _ in range(3):
        await submit(store, "anna")
    first, second = await claim(store, limit=2)
    await store.release(first)
    await store.worker_died(second, ran_alone=False)
    assert [job.id for job in await claim(store, limit=5)] == [first.id]
    assert [job.id for job in await claim(store, limit=5)] == [second.id]


async def test_a_job_that_ends_its_worker_three_times_alone_is_failed(store: JobStore) -> None:
    job = await submit(store, "anna")
    for ran_alone in (False, True, False, True, True):
        (running,) = await claim(store)
        after = await store.worker_died(running, ran_alone)
    assert after is not None and (after.state, after.deaths, after.attempts) == ("failed", 3, 5)
    assert after.error is not None and "ended its worker 3 times" in after.error.message
    assert await store.get(job.id) == after


async def test_pages_hold_every_job_once(store: JobStore) -> None:
    submitted = [(await submit(store, owner)).id for owner in ("anna", "ben") * 10]
    seen: list[str] = []
    cursor = None
    while page := await store.page(limit=7, cursor=cursor):
        seen += [job.id for job in page]
        cursor = page[-1].id
    assert seen == submitted[::-1]
    assert {job.owner for job in await store.page(owner="ben")} == {"ben"}
    await store.cancel(submitted[3])
    assert [job.id for job in await store.page(state="cancelled")] == [submitted[3]]


async def test_the_ended_among_many_are_found(store: JobStore) -> None:
    submitted = [await submit(store, "anna") for _ in range(3)]
    await store.cancel(submitted[1].id)
    wanted = [job.id for job in submitted] + [f"unknown {number}" for number in range(1200)]
    assert [job.id for job in await store.ended(wanted)] == [submitted[1].id]


async def test_a_request_that_is_no_json_harms_nobody_else(store: JobStore) -> None:
    bad = Submission(kind="image", request={"bytes": b"\xff"}, fingerprint="f")
    results = await asyncio.gather(store.submit(APPLE), store.submit(bad), store.submit(APPLE), return_exceptions=True)
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert await store.depth() == 2


def test_ids_sort_by_time() -> None:
    ids = [new_id(1_700_000_000 + number / 1000) for number in range(100)]
    assert all(earlier < later for earlier, later in pairwise(ids))
    assert len({new_id(5.0) for _ in range(1000)}) == 1000


async def test_a_full_disk_is_an_error_to_the_caller_and_the_queue_goes_on(
    sqlite: Database, sqlite_store: JobStore
) -> None:
    accepted = [(await sqlite_store.submit(APPLE))[0].id for _ in range(5)]

    async def pages(most: int) -> None:
        def limit() -> None:
            with sqlite.read() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

        await asyncio.to_thread(limit)

    await pages(1)  # SQLite takes it as: no more than there are
    with pytest.raises(StorageFailed, match="Free some space"):
        for _ in range(1000):
            accepted.append((await sqlite_store.submit(APPLE.model_copy(update={"request": {"x": "y" * 5000}})))[0].id)
    await pages(1_000_000)
    assert [job.id for job in await sqlite_store.claim(ME, 30.0, limit=100)] == accepted


def test_a_snapshot_of_a_job_is_json() -> None:
    job = Job(id="1", kind="x", state="queued", request={}, owner="", priority="batch", created=1.0)
    assert Job.model_validate(json.loads(job.model_dump_json())) == job
