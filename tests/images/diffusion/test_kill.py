"""A worker killed in the middle of a mixture: drawn again, every picture is what it is alone."""

import asyncio
import os
import signal
from collections.abc import Iterable
from typing import Any

import pytest

from illustrious.errors import WorkerDied
from illustrious.images import EngineOptions, Step
from illustrious.images.process import ImageWorker, OnStep
from illustrious.types import ImageRequest
from tests.images.diffusion.test_loop import MIXTURE, RED

LONG = RED.model_copy(update={"steps": 150})
"""Still under way, whenever the signal reaches the worker."""


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_mixture_that_died_half_way_is_drawn_again_to_the_last_byte() -> None:
    worker = ImageWorker("sdxl", EngineOptions(device="cpu", threads=1), backoff=0.01)
    await worker.start()
    heard: list[Step] = []

    def kill(step: Step) -> None:
        heard.append(step)
        if len(heard) == 12 and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)

    async def all_at_once(requests: Iterable[ImageRequest], on_step: OnStep | None = None) -> list[Any]:
        drawing = (worker.draw(request, on_step, str(number)) for number, request in enumerate(requests))
        return await asyncio.gather(*drawing, return_exceptions=True)

    try:
        ends = await all_at_once([*MIXTURE.values(), LONG], kill)
        assert worker.deaths == 1
        assert isinstance(ends[-1], WorkerDied)
        again = await all_at_once(MIXTURE.values())
        alone = [await worker.draw(request) for request in MIXTURE.values()]
    finally:
        await worker.close()
    assert again == alone
    assert all(end == result or isinstance(end, WorkerDied) for end, result in zip(ends, alone, strict=False))
    assert len({result.image for (result,) in alone}) == len(MIXTURE)
