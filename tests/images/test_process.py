"""An engine in a child process: the same pictures as in this one, whatever becomes of the child."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from illustrious.errors import EngineFailed
from illustrious.images import EngineOptions
from illustrious.images.fake import draw
from illustrious.images.process import ATTEMPTS, ImageWorker
from illustrious.types import ImageRequest, Progress

REQUEST = ImageRequest(prompt="a red apple", steps=5, seed=3)


@pytest.fixture
async def worker() -> AsyncIterator[ImageWorker]:
    worker = ImageWorker("fake", EngineOptions(), backoff=0.01)
    await worker.start()
    yield worker
    await worker.close()


async def test_a_request_waits_for_the_model_and_the_picture_is_the_engines_own(worker: ImageWorker) -> None:
    assert worker.status().loading
    seen: list[Progress] = []
    result = await worker.draw(REQUEST, seen.append)
    assert result == draw(REQUEST)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5]
    assert worker.status().available


def kill(worker: ImageWorker) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)


async def test_whoever_waits_gets_the_same_picture_although_the_worker_is_killed_in_mid_picture(
    worker: ImageWorker,
) -> None:
    kills = 0

    def kill_once(progress: Progress) -> None:
        nonlocal kills
        if not kills:
            kills += 1
            kill(worker)

    results = await asyncio.gather(*(worker.draw(REQUEST, kill_once) for _ in range(3)))
    assert kills == 1
    assert all(result == draw(REQUEST) for result in results)


async def test_a_picture_whose_worker_always_dies_is_given_up_and_the_next_is_drawn(worker: ImageWorker) -> None:
    deaths: set[int | None] = set()

    def kill_this_worker(progress: Progress) -> None:
        if worker.pid not in deaths:
            deaths.add(worker.pid)
            kill(worker)

    # Many steps, so that the child cannot be through before the signal reaches it.
    with pytest.raises(EngineFailed, match="smaller size"):
        await worker.draw(REQUEST.model_copy(update={"steps": 150, "width": 2048, "height": 2048}), kill_this_worker)
    assert len(deaths) == ATTEMPTS
    assert await worker.draw(REQUEST) == draw(REQUEST)


async def test_closing_leaves_no_process(worker: ImageWorker) -> None:
    await worker.wait_until_loaded()
    process = psutil.Process(worker.pid)
    await worker.close()
    assert not process.is_running()
