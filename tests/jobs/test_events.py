"""The story of a job, for those who listen from the start, late, slowly or again."""

import asyncio
from typing import Any

import pytest

from illustrious.jobs import Failure, Job
from illustrious.jobs.events import MAX_CHANGES, Event, EventLog, retell
from tests.jobs.conftest import Clock

QUEUED = Job(id="a", kind="image", state="queued", request={}, owner="", priority="interactive", created=1.0)
RUNNING = QUEUED.model_copy(update={"state": "running", "attempts": 1, "started": 2.0})
DONE = RUNNING.model_copy(update={"state": "succeeded", "result": {"image": "x"}, "finished": 3.0})
FAILED = RUNNING.model_copy(update={"state": "failed", "error": Failure(kind="K", message="m"), "finished": 3.0})
WHY = {"kind": "K", "message": "m", "field": None}


@pytest.fixture
def events(clock: Clock) -> EventLog:
    return EventLog(now=clock)


def told(event: Event) -> Any:
    return event.data["state"] if event.name == "state" else (event.name, event.data)


async def everything(events: EventLog, after: int | None = None) -> list[Event]:
    async with asyncio.timeout(5):
        return [event async for event in events.subscribe("a", after)]


async def test_who_listens_from_the_start_hears_all(events: EventLog) -> None:
    events.announce(QUEUED)
    heard: list[Any] = []

    async def listen() -> None:
        async for event in events.subscribe("a"):
            heard.append(told(event))

    listener = asyncio.create_task(listen())

    async def say(what: object) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await say(None)
    await say(events.announce(RUNNING))
    for step in (1, 2):
        await say(events.report("a", "step", {"step": step}))
    await say(events.report("a", "preview", {"image": b"p"}))
    await say(events.announce(DONE))
    await listener
    assert heard == [
        "queued",
        "running",
        ("step", {"step": 1}),
        ("step", {"step": 2}),
        ("preview", {"image": b"p"}),
        ("result", {"image": "x", "warnings": []}),
        "succeeded",
    ]


async def test_who_comes_late_hears_the_changes_and_the_latest_step(events: EventLog) -> None:
    events.announce(QUEUED)
    events.announce(RUNNING)
    for step in range(1, 10):
        events.report("a", "step", {"step": step})
    late = events.subscribe("a")
    assert [told(await anext(late)) for _ in range(3)] == ["queued", "running", ("step", {"step": 9})]
    await late.aclose()


async def test_who_comes_again_hears_what_he_missed_once(events: EventLog) -> None:
    events.announce(QUEUED)
    first = events.subscribe("a")
    last_id = (await anext(first)).id
    await first.aclose()
    events.announce(RUNNING)
    events.announce(FAILED)
    rest = await everything(events, after=last_id)
    assert [told(event) for event in rest] == ["running", ("error", WHY), "failed"]
    assert await everything(events, after=rest[-1].id) == []


async def test_ids_grow_even_across_a_restart(clock: Clock) -> None:
    before, after = EventLog(now=clock), None
    for _ in range(50):
        before.announce(QUEUED)
    clock.now += 1
    after = EventLog(now=clock)
    after.announce(RUNNING)
    before.announce(DONE)
    assert max(event.id for event in await everything(before)) < (await anext(after.subscribe("a"))).id


async def test_a_slow_listener_holds_nothing_and_misses_only_steps(events: EventLog) -> None:
    events.announce(RUNNING)
    slow = events.subscribe("a")
    await anext(slow)
    for step in range(10_000):
        events.report("a", "step", {"step": step})
        events.report("a", "preview", {"image": b"%d" % step})
    assert [told(await anext(slow)) for _ in range(2)] == [("step", {"step": 9999}), ("preview", {"image": b"9999"})]
    events.announce(DONE)
    assert [told(event) async for event in slow] == [("result", {"image": "x", "warnings": []}), "succeeded"]


async def test_the_steps_of_an_attempt_go_with_it(events: EventLog) -> None:
    events.announce(RUNNING)
    events.report("a", "step", {"step": 5})
    events.announce(QUEUED)
    events.announce(DONE)
    assert "step" not in [event.name for event in await everything(events)]


async def test_nothing_is_said_after_the_end(events: EventLog) -> None:
    events.announce(DONE)
    events.report("a", "step", {"step": 1})
    events.announce(RUNNING)
    assert [told(event) for event in await everything(events)] == [
        ("result", {"image": "x", "warnings": []}),
        "succeeded",
    ]


async def test_previews_are_bounded_all_together(clock: Clock) -> None:
    events = EventLog(now=clock, max_preview_bytes=1000)
    for number in range(10):
        job = RUNNING.model_copy(update={"id": str(number)})
        events.announce(job)
        events.report(job.id, "preview", {"image": b"x" * 400})
        events.announce(job.model_copy(update={"state": "succeeded"}) if number < 5 else job)
        events.report(job.id, "preview", {"image": b"x" * 400})
    kept = []
    for number in range(5, 10):
        events.announce(DONE.model_copy(update={"id": "end"}))
        subscription = events.subscribe(str(number), after=0)
        known = []
        events.report(str(number), "step", {})  # so that there is something after the preview
        async for event in subscription:
            known.append(event.name)
            if event.name == "step":
                break
        await subscription.aclose()
        kept.append("preview" in known)
    assert kept == [False, False, False, True, True]


async def test_logs_go_some_time_after_the_end(clock: Clock) -> None:
    events = EventLog(now=clock, linger=100.0, max_ended=3)
    events.announce(DONE)
    clock.now += 99
    events.forget_old()
    assert events.knows("a")
    clock.now += 2
    events.forget_old()
    assert not events.knows("a")
    for name in "bcdef":
        events.announce(DONE.model_copy(update={"id": name}))
    assert [name for name in "bcdef" if events.knows(name)] == ["d", "e", "f"]


async def test_changes_of_one_job_are_bounded(events: EventLog) -> None:
    for _ in range(1000):
        events.announce(RUNNING)
    events.announce(DONE)
    assert len(await everything(events)) == MAX_CHANGES


async def test_listening_to_what_nothing_is_known_of_leaves_nothing(events: EventLog) -> None:
    listener = asyncio.create_task(everything(events))
    await asyncio.sleep(0)
    listener.cancel()
    await asyncio.wait({listener})
    assert not events.knows("a") and events.live() == set()


def test_a_row_tells_the_end_when_the_log_is_gone() -> None:
    assert [told(event) for event in retell(DONE)] == [("result", {"image": "x", "warnings": []}), "succeeded"]
    assert [told(event) for event in retell(FAILED)] == [("error", WHY), "failed"]
    assert [told(event) for event in retell(QUEUED)] == ["queued"]
