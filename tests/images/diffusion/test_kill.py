"""A worker killed in the middle of a mixture: drawn again, every picture is what it is alone."""

import asyncio
import os
import signal

import pytest

from illustrious.errors import WorkerDied
from illustrious.images import EngineOptions, Step
from illustrious.images.process import ImageWorker
from illustrious.types import ImageResult
from tests.images.diffusion.test_loop import MIXTURE


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_mixture_that_died_half_way_is_drawn_again_to_the_last_byte() -> None:
    worker = ImageWorker("sdxl", EngineOptions(device="cpu", threads=1), backoff=0.01)
    await worker.start()
    heard: list[Step] = []

    def kill(step: Step) -> None:
        heard.append(step)
        if len(heard) == 12 and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)

    async def all_at_once(listen: bool) -> list[tuple[ImageResult, ...] | BaseException]:
        each = (worker.draw(request, kill if listen else None, name) for name, request in MIXTURE.items())
        return await asyncio.gather(*each, return_exceptions=True)

    try:
        died = [end for end in await all_at_once(listen=True) if isinstance(end, WorkerDied)]
        assert worker.deaths == 1 and len(died) >= 2
        again = await all_at_once(listen=False)
        alone = [await worker.draw(request) for request in MIXTURE.values()]
    finally:
        await worker.close()
    assert again == alone
    assert len({result.image for (result,) in alone}) == len(MIXTURE)
