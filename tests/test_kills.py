"""Processes killed at work, by their number, under callers who ask until they have their picture.

Nothing is lost, nothing is drawn for somebody twice, nothing looks different, and no process stays behind.
"""

import base64
import hashlib
import io
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.server import RunningStudio, running_studio

CLIENTS = 8
PATIENCE = 120.0
"""Seconds that anything here may take."""

WISHES: dict[str, list[dict[str, Any]]] = {
    "fake": [{"prompt": "a cat", "seed": seed, "steps": 100, "width": 512, "height": 512} for seed in range(4)],
    "starter": [{"prompt": "a red apple", "seed": seed, "steps": 20} for seed in range(4)],
}


def digest(picture: bytes) -> str:
    return hashlib.sha256(Image.open(io.BytesIO(picture)).convert("RGB").tobytes()).hexdigest()


@dataclass(frozen=True)
class Had:
    """A picture that a client was given."""

    key: str
    job: str
    wish: int
    digest: str


class Callers:
    """Clients who each ask for one picture after another, with a key for each, and again after anything that is no
    answer: a broken connection, 503."""

    def __init__(self, wishes: list[dict[str, Any]]) -> None:
        self.wishes = wishes
        self.url = ""
        self.had: list[Had] = []
        self.enough = threading.Event()

    def go_on(self, first: int) -> None:
        for wish in itertools.islice(itertools.cycle(range(len(self.wishes))), first, None):
            if self.enough.is_set():
                return
            self.have(wish)

    def have(self, wish: int) -> str:
        """Ask until there is a picture; the digest of its pixels."""
        key = str(uuid.uuid4())
        answer = self.ask(self.wishes[wish], key)
        picture = base64.b64decode(answer.json()["image_base64"])
        self.had.append(Had(key, answer.headers["X-Job-Id"], wish, digest(picture)))
        return self.had[-1].digest

    def ask(self, wish: dict[str, Any], key: str) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(
                    f"{self.url}/generate-image",
                    json=wish,
                    headers={"Idempotency-Key": key},
                    timeout=PATIENCE,
                    trust_env=False,
                )
                if answer.status_code != 503:
                    return answer.raise_for_status()
            except httpx.TransportError:
                pass
            time.sleep(0.05)  # as a polite client does
        raise AssertionError(f"no picture within {PATIENCE:g} s")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def ask(studio: RunningStudio, path: str, **query: Any) -> Any:
    return httpx.get(studio.url + path, params=query, timeout=60, trust_env=False).raise_for_status().json()


def everything(studio: RunningStudio, path: str) -> Iterator[dict[str, Any]]:
    """All pages of a list."""
    query: dict[str, Any] = {"limit": 200}
    while True:
        page = ask(studio, path, **query)
        yield from page["items"]
        if page["next"] is None:
            return
        query["cursor"] = page["next"]


def kill_worker(studio: RunningStudio, callers: Callers) -> None:
    """The image worker, in the middle of a picture, and of another one than the last time."""

    def is_drawing() -> bool:
        return bool(ask(studio, "/workers")["workers"][0]["state"] == "drawing")

    until(is_drawing)
    one_more_picture(callers)
    while True:
        until(is_drawing)
        worker = psutil.Process(ask(studio, "/workers")["workers"][0]["pid"])
        worker.suspend()  # so that the picture seen to be drawn is not ready before the kill
        if is_drawing():
            break
        worker.resume()
    worker.kill()
    until(lambda: not worker.is_running())


def one_more_picture(callers: Callers) -> None:
    before = len(callers.had)
    until(lambda: len(callers.had) > before)


def kill_server(studio: RunningStudio) -> None:
    """The server, while it has jobs that run; what it started must end by itself."""
    until(lambda: bool(ask(studio, "/jobs", state="running")["items"]))
    children = psutil.Process(studio.process.pid).children(recursive=True)
    studio.process.kill()
    studio.process.wait()
    _, orphans = psutil.wait_procs(children, timeout=20)
    assert children and not orphans


@pytest.mark.parametrize(
    ("worker_kills", "server_kills"), [(3, 2), pytest.param(20, 10, marks=pytest.mark.soak)], ids=["few", "soak"]
)
@pytest.mark.parametrize("engine", ["fake", "starter"])
def test_kills_lose_nothing_repeat_nothing_and_change_nothing(
    engine: str, worker_kills: int, server_kills: int, tmp_path: Path
) -> None:
    callers = Callers(WISHES[engine])
    undisturbed: list[str] = []
    clients: list[Future[None]] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        try:
            for life in range(server_kills + 1):
                with running_studio(tmp_path, *(["--fake"] if engine == "fake" else [])) as studio:
                    callers.url = studio.url
                    if life == 0:
                        undisturbed = [callers.have(wish) for wish in range(len(callers.wishes))]
                        clients = [pool.submit(callers.go_on, number) for number in range(CLIENTS)]
                    for _ in range(life, worker_kills, server_kills + 1):  # its share
                        kill_worker(studio, callers)
                    one_more_picture(callers)
                    if life < server_kills:
                        kill_server(studio)
                        continue
                    callers.enough.set()
                    for client in clients:
                        client.result()
                    account(studio, callers, undisturbed, worker_kills, server_kills)
        finally:
            callers.enough.set()


def account(
    studio: RunningStudio, callers: Callers, undisturbed: list[str], worker_kills: int, server_kills: int
) -> None:
    jobs = {job["id"]: job for job in everything(studio, "/jobs")}
    pictures = [picture["job"] for picture in everything(studio, "/gallery")]
    lost = [job["id"] for job in jobs.values() if job["state"] != "succeeded"]
    lost += [had.job for had in callers.had if had.job not in jobs]
    different = [had for had in callers.had if had.digest != undisturbed[had.wish]]
    again = sum(job["attempts"] - 1 for job in jobs.values())
    print(f"{worker_kills} workers and {server_kills} servers killed under {CLIENTS} clients, {again} jobs begun again")
    duplicated = len(pictures) - len(callers.had)
    print(f"{len(callers.had)} pictures: {len(lost)} lost, {duplicated} duplicated, {len(different)} different")
    assert not lost and not different
    assert sorted(pictures) == sorted(jobs) == sorted(had.job for had in callers.had), "each once"
    assert again >= worker_kills, "the kills hit what was running"
    for had in callers.had[:: -(-len(callers.had) // 50)]:  # fifty of them are still found, by id and by key
        (image,) = ask(studio, f"/jobs/{had.job}")["result"]["images"]
        assert digest(httpx.get(studio.url + image["url"], trust_env=False).content) == had.digest
        assert callers.ask(callers.wishes[had.wish], had.key).headers["X-Job-Id"] == had.job
