"""Storage that fails under requests: each caller is told what to do, and the queue goes on where it was."""

import base64
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection, event

from illustrious.service import Studio

APPLE = {"prompt": "a red apple", "seed": 7, "steps": 20}


@contextlib.contextmanager
def database_locked(studio: Studio, folder: Path) -> Iterator[None]:
    with closing(sqlite3.connect(folder / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def database_full(studio: Studio, folder: Path) -> Iterator[None]:
    """What SQLite itself says when the disk is full: its file may have no more pages than it has."""
    engine = studio.gallery._database.engine

    def limit(pages: int) -> Callable[[Connection], None]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}") and None

    full, free = limit(1), limit(2**31 - 1)
    event.listen(engine, "begin", full)
    try:
        yield
    finally:
        event.remove(engine, "begin", full)
        event.listen(engine, "begin", free)


@contextlib.contextmanager
def disk_full(studio: Studio, folder: Path) -> Iterator[None]:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", full)
        yield


@contextlib.contextmanager
def images_unwritable(studio: Studio, folder: Path) -> Iterator[None]:
    """For root, too: there is a file where the folder should be."""
    (folder / "images").rename(folder / "kept")
    (folder / "images").write_bytes(b"in the way")
    yield
    (folder / "images").unlink()
    (folder / "kept").rename(folder / "images")


@pytest.mark.parametrize(
    ("fails", "words"), [(database_locked, "try again in a moment"), (database_full, "Free some space")]
)
async def test_a_job_that_cannot_be_written_is_refused_and_those_accepted_stay(
    fails: Callable[..., contextlib.AbstractContextManager[None]],
    words: str,
    studio: Studio,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    before = await http.post("/generate-image", json=APPLE)
    with fails(studio, tmp_path):
        refused = [
            await http.post("/jobs", json={**APPLE, "prompt": "x" * 10_000, "seed": seed})
            for seed in range(1 if fails is database_locked else 20)
        ][-1]
        assert refused.status_code == 500
        assert words in refused.json()["detail"]
        kept = (await http.get(f"/jobs/{before.headers['x-job-id']}")).json()
        assert kept["state"] == "succeeded"
    again = await http.post("/generate-image", json=APPLE)
    assert again.json()["image_base64"] == before.json()["image_base64"]
    assert {job["state"] for job in (await http.get("/jobs")).json()["items"]} == {"succeeded"}


@pytest.mark.parametrize(("fails", "words"), [(disk_full, "Free some space"), (images_unwritable, "permissions")])
async def test_a_picture_that_cannot_be_saved_fails_its_job_alone_which_can_be_submitted_again(
    fails: Callable[..., contextlib.AbstractContextManager[None]],
    words: str,
    studio: Studio,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    before = await http.post("/generate-image", json=APPLE)
    with fails(studio, tmp_path):
        answer = await http.post("/generate-image", json=APPLE)
        assert answer.status_code == 500
        assert words in answer.json()["detail"]
    job = (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()
    assert (job["state"], job["error"]["kind"]) == ("failed", "StorageFailed")
    again = (await http.post(f"/jobs/{job['id']}/resubmit")).json()
    drawn = await studio.drawn(await studio.runner.wait(again["id"]))
    assert base64.b64encode(drawn.image).decode() == before.json()["image_base64"]
    assert list((tmp_path / "images").rglob(".*.part")) == []
