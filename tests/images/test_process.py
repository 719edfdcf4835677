"""An engine in a child process: the same pictures as in this one, and no end of the child goes unnoticed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from illustrious.errors import InvalidRequest, Unavailable, WorkerDied
from illustrious.images import Done, EngineOptions, Event, Ready, Step, Warned
from illustrious.images import process as process_module
from illustrious.images.fake import draw_all
from illustrious.images.process import ImageWorker, decode, encode
from illustrious.process import Child, Message
from illustrious.types import ImageRequest
from tests import tiny

REQUEST = ImageRequest(prompt="a red apple", steps=5, seed=3)
LONG = REQUEST.model_copy(update={"steps": 150, "width": 2048, "height": 2048})
"""So many events and so large a picture that its child cannot be through before a signal reaches it."""


@pytest.fixture
async def worker() -> AsyncIterator[ImageWorker]:
    worker = ImageWorker("fake", EngineOptions(), backoff=0.01)
    await worker.start()
    yield worker
    await worker.close()


async def test_a_request_waits_for_the_model_and_the_picture_is_the_engines_own(worker: ImageWorker) -> None:
    assert (worker.state, worker.capacity) == ("loading", 0)
    seen: list[Step] = []
    results = await worker.draw(REQUEST, seen.append)
    assert results == draw_all(REQUEST)
    assert [step.step for step in seen] == [1, 2, 3, 4, 5]
    assert (worker.state, worker.capacity) == ("idle", 1)


@pytest.mark.parametrize(("every", "previewed"), [(2, [2, 4]), (0, [])])
async def test_previews_come_as_often_as_asked_for(every: int, previewed: list[int]) -> None:
    worker = ImageWorker("fake", EngineOptions(preview_every=every))
    await worker.start()
    seen: list[Step] = []
    try:
        await worker.draw(REQUEST, seen.append)
    finally:
        await worker.close()
    assert [step.step for step in seen if step.preview is not None] == previewed


def test_pictures_and_previews_cross_as_bytes() -> None:
    for event in (
        Done(job_id="1", results=draw_all(REQUEST.model_copy(update={"count": 2}))),
        Step(job_id="1", step=1, steps=2, preview=b"\xff\x00"),
    ):
        body, blobs = encode(event)
        assert decode((body, blobs)) == event
        assert "'image':" not in str(body) and len(blobs) == (2 if isinstance(event, Done) else 1)


def send(worker: ImageWorker, what: signal.Signals) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, what)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda what: what.name)
async def test_all_who_wait_hear_of_the_death_and_the_next_picture_is_drawn(
    worker: ImageWorker, what: signal.Signals
) -> None:
    """Killed for memory, by a fault of its own, or by a failed assertion, as those of CUDA."""
    await worker.wait_until_loaded()
    first = worker.pid

    def kill(step: Step) -> None:
        if worker.pid == first:
            send(worker, what)

    ends = await asyncio.gather(*(worker.draw(LONG, kill) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [WorkerDied] * 3
    assert await worker.draw(REQUEST) == draw_all(REQUEST)
    assert worker.deaths == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
@pytest.mark.parametrize("limits", [{"silence": 1.5}, {"stuck_step": 0.5}], ids=["silent", "stuck"])
async def test_a_child_that_hangs_is_killed(limits: dict[str, float]) -> None:
    worker = ImageWorker("fake", EngineOptions(), backoff=0.01, **limits)
    await worker.start()
    try:
        with pytest.raises(WorkerDied):
            await worker.draw(LONG, lambda step: send(worker, signal.SIGSTOP))
        assert await worker.draw(REQUEST) == draw_all(REQUEST)
    finally:
        await worker.close()


async def test_it_tells_how_far_the_model_has_loaded() -> None:
    worker = ImageWorker("sdxl", EngineOptions(device="cpu", threads=1))
    told: set[float | None] = set()
    await worker.start()
    loaded = asyncio.create_task(worker.wait_until_loaded())
    try:
        while not loaded.done():
            told.add(worker.status().progress)
            await asyncio.sleep(0)
        assert worker.status().progress is None
    finally:
        await worker.close()
    assert {0.0, 0.1, 0.2} < told


async def test_it_tells_which_models_its_child_holds(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "anime").mkdir(parents=True)
    tiny.write_single_file(tmp_path / "checkpoints" / "anime" / "other.safetensors")
    worker = ImageWorker("sdxl", EngineOptions(device="cpu", threads=1, models_dirs=(str(tmp_path),)))
    assert worker.held == {}
    await worker.start()
    try:
        await worker.wait_until_loaded()
        assert worker.held == {"sdxl-starter": "cpu"}
        await worker.draw(ImageRequest(steps=1, seed=1, model="other"))
        assert worker.held == {"sdxl-starter": "cpu", "anime/other": "cpu"}
    finally:
        await worker.close()
    assert worker.held == {}


class Telling(Child):
    """A child that says only what it is given to say, and stays until it is stopped."""

    says: tuple[Event, ...] = ()

    def start(self) -> None:
        self._is_stopped = asyncio.Event()

    async def messages(self) -> AsyncIterator[Message]:
        for event in self.says:
            yield encode(event)
        await self._is_stopped.wait()


async def test_it_tells_what_went_wrong_with_its_models_and_costs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Ready(model="m", family="sdxl", device="cuda:0", backend="cuda", dtype="bfloat16", width=8, height=8)
    monkeypatch.setattr(Telling, "says", (ready, Warned(warnings=("m: No compiler. Install one.",))))
    monkeypatch.setattr(process_module, "Child", Telling)
    worker = ImageWorker("sdxl", EngineOptions())
    assert worker.status().warnings == ()
    await worker.start()
    try:
        await worker.wait_until_loaded()
        assert worker.status().warnings == ("m: No compiler. Install one.",)
        assert worker.status().available
    finally:
        await worker.close()
    assert worker.status().warnings == ()


async def test_what_the_engine_finds_wrong_is_named_here_as_there() -> None:
    worker = ImageWorker("sdxl", EngineOptions(device="cpu", threads=1, max_pixels=64 * 64))
    await worker.start()
    try:
        with pytest.raises(InvalidRequest, match="the limit is 4,096") as refused:
            await worker.draw(ImageRequest(steps=1, seed=1, width=128, height=64))
    finally:
        await worker.close()
    assert refused.value.field == "width"


async def test_it_tells_the_memory_its_child_takes(worker: ImageWorker) -> None:
    await worker.wait_until_loaded()
    async with asyncio.timeout(10):
        while not worker.memory.rss:
            await asyncio.sleep(0.01)
    assert worker.pid is not None
    assert worker.memory.rss == pytest.approx(psutil.Process(worker.pid).memory_info().rss, rel=0.5)


async def test_cancelling_the_wait_cancels_the_picture(worker: ImageWorker) -> None:
    begun = asyncio.Event()
    drawing = asyncio.create_task(worker.draw(LONG, lambda step: begun.set()))
    await begun.wait()
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    assert await worker.draw(REQUEST) == draw_all(REQUEST)


async def test_an_engine_that_cannot_load_says_why_for_good() -> None:
    worker = ImageWorker("sdxl", EngineOptions(model="/no/such/model.safetensors"))
    await worker.start()
    try:
        with pytest.raises(Unavailable, match=r"/no/such/model\.safetensors"):
            await worker.draw(REQUEST)
        assert worker.state == "unavailable"
        assert "/no/such/model.safetensors" in await worker.wait_until_hopeless()
    finally:
        await worker.close()


async def test_closing_leaves_no_process(worker: ImageWorker) -> None:
    await worker.wait_until_loaded()
    process = psutil.Process(worker.pid)
    await worker.close()
    assert not process.is_running()
