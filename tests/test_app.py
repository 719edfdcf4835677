"""What the settings say reaches the parts, and the server process stays small: what is heavy lives in children."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from illustrious.app import open_studio
from illustrious.errors import CannotStart, NotFound
from illustrious.gallery.search import Query
from illustrious.jobs.store import jobs
from illustrious.service import Asker, Studio
from illustrious.settings import Settings
from illustrious.types import ImageRequest

HEAVY = ("torch", "diffusers", "transformers", "xllamacpp", "accelerate", "peft")
APPLE = ImageRequest(prompt="a red apple", seed=7, steps=2)


def test_importing_the_app_loads_nothing_heavy() -> None:
    code = f"import sys, illustrious.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Studio]:
    with open_studio(Settings(data_dir=folder, fake=True, **settings)) as studio:
        await studio.start(draw=False)
        yield studio
        await studio.close()


async def test_each_device_has_a_worker_and_they_draw_at_the_same_time(tmp_path: Path) -> None:
    async with running(tmp_path, devices=("cpu", "cpu")) as studio:
        for worker in studio.workers:
            await worker.start()
            await worker.wait_until_loaded()
        long = APPLE.model_copy(update={"steps": 150, "width": 1024, "height": 1024})
        drawing = asyncio.gather(*(studio.generate(long, Asker()) for _ in range(2)))
        both = False
        while not drawing.done():
            both = both or [worker.state for worker in studio.workers] == ["drawing"] * 2
            await asyncio.sleep(0)
        images = [process for process in studio.processes() if process.kind == "image"]
        assert both
        assert len({process.pid for process in images}) == 2
        assert [(process.id, process.device) for process in images] == [("image-0", "cpu"), ("image-1", "cpu")]
        first, second = await drawing
        assert first.job_id != second.job_id


async def test_what_went_wrong_with_any_of_the_workers_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, devices=("cpu", "cpu", "cpu")) as studio:
        for worker, warnings in zip(studio.workers, ((), ("No compiler.",), ("No compiler.", "No room.")), strict=True):
            status = worker.status().model_copy(update={"warnings": warnings})
            monkeypatch.setattr(worker, "status", lambda status=status: status)
        assert studio.backends()["image"].warnings == ("No compiler.", "No room.")


async def test_a_studio_on_postgresql_draws_finds_and_keeps_others_out(postgresql: str, tmp_path: Path) -> None:
    database = SecretStr(postgresql)
    asker = Asker(idempotency_key="once")
    async with running(tmp_path / "one", database=database) as studio:
        first = await studio.generate(APPLE, asker)
        with pytest.raises(CannotStart, match="Another studio"):
            async with running(tmp_path / "two", database=database):
                pass
    assert not (tmp_path / "one" / "studio.db").exists()
    async with running(tmp_path / "one", database=database) as studio:
        again = await studio.generate(APPLE, asker)
        found = await studio.gallery.page(Query(q="red"))
    assert again == first
    assert [picture.id for picture in found.items] == [first.id]


async def test_events_go_with_their_time_and_the_answer_stays(tmp_path: Path) -> None:
    for minutes, kept in ((5.0, True), (0.0, False)):
        async with running(tmp_path / f"{minutes}", event_minutes=minutes) as studio:
            drawn = await studio.generate(APPLE, Asker())
            studio.runner.events.forget_old()
            assert studio.runner.events.knows(drawn.job_id) == kept
            names = [event.name async for event in studio.runner.follow(drawn.job_id)]
            assert names[-2:] == ["result", "state"]


async def test_what_forgets_jobs_keys_and_trash_deletes_no_picture(tmp_path: Path) -> None:
    async with running(tmp_path, job_days=2, key_hours=24) as studio:
        drawn = await studio.generate(APPLE, Asker(idempotency_key="k"))
        with studio.gallery._database.begin() as connection:
            connection.execute(update(jobs).values(finished=jobs.c.finished - 3 * 86400))
        await studio.runner.store.sweep()
        with pytest.raises(NotFound):
            await studio.runner.store.get(drawn.job_id)
        assert await studio.gallery.sweep_trash(0.0) == 0
        assert (await studio.gallery.file(drawn.id)).read_bytes() == drawn.image
