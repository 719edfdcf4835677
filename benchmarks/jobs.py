"""What the durable queue costs: ``python benchmarks/jobs.py [--fake] [--url postgresql+psycopg://…]``.

Clients submit a job, wait until it is done, and submit the next. The performer does nothing, so that the queue alone is
measured; with ``--fake`` it is the fake engine in its child process, which draws a picture of 64×64 pixels for each job
and competes for the same processor. Every job is three durable steps (submit, claim, finish). The baseline is what the
database's own driver commits in the same place at the same durability: one connection, one row of the same size in each
transaction. Both are measured in turns, and the ratio of each turn is printed with its median and range. 100 % would be
a whole job for every transaction of the baseline.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from illustrious.database import Database
from illustrious.images import EngineOptions
from illustrious.images.process import ImageWorker
from illustrious.jobs import Job, Outcome, Report, Submission
from illustrious.jobs.events import EventLog
from illustrious.jobs.runner import Runner
from illustrious.jobs.store import JobStore, new_id
from illustrious.types import ImageRequest
from illustrious.writer import Writer

REQUEST = {
    "prompt": "masterpiece, a lighthouse above the sea at dusk, cinematic light, highly detailed, volumetric clouds",
    "negative_prompt": "lowres, bad anatomy, watermark",
    "width": 64, "height": 64, "steps": 1, "guidance": 6.5, "seed": 1234567890,
}  # fmt: skip


class Nothing:
    """Does no work, as fast as there are clients."""

    name = "nothing"

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    async def perform(self, job: Job, report: Report) -> Outcome:
        return Outcome(result={"images": [{"id": job.id}]})


class Fake:
    """The fake engine in its child process. It is given all there is at once, as an engine with a running batch is."""

    name = "fake"

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.worker = ImageWorker("fake", EngineOptions(preview_every=0))

    async def perform(self, job: Job, report: Report) -> Outcome:
        (picture,) = await self.worker.draw(ImageRequest.model_validate(job.request))
        return Outcome(result={"images": [{"id": job.id, "bytes": len(picture.image)}]})


def committed_per_second(commit: Callable[[str, str], Any], seconds: float) -> float:
    row = json.dumps(REQUEST)
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        commit(new_id(time.time()), row)
        count += 1
    return count / elapsed


def raw(url: str, seconds: float) -> float:
    """Transactions per second of the driver itself, each committed to the disk."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS raw_rows (id TEXT PRIMARY KEY, request TEXT)")

            def commit(row_id: str, request: str) -> None:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO raw_rows VALUES (?, ?)", (row_id, request))
                connection.execute("COMMIT")

            return committed_per_second(commit, seconds)
    import psycopg

    with psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as server:
        server.execute("CREATE TABLE IF NOT EXISTS raw_rows (id TEXT PRIMARY KEY, request TEXT)")
        server.commit()

        def commit_there(row_id: str, request: str) -> None:
            server.execute("INSERT INTO raw_rows VALUES (%s, %s)", (row_id, request))
            server.commit()

        return committed_per_second(commit_there, seconds)


async def queue(url: str, clients: int, seconds: float, fake: bool) -> tuple[float, list[float]]:
    """Jobs per second, and how long each submission took, in seconds."""
    database = Database.open(url)
    writer = Writer(database)
    performer = Fake(clients) if fake else Nothing(clients)
    runner = Runner(JobStore(database, writer), EventLog(), [performer])
    await runner.start()
    if isinstance(performer, Fake):
        await performer.worker.start()
        await performer.worker.wait_until_loaded()
    submits: list[float] = []
    done = 0
    start = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            begun = time.perf_counter()
            job, _ = await runner.submit(Submission(kind="image", request=REQUEST, owner=f"client {number}"))
            submits.append(time.perf_counter() - begun)
            assert (await runner.wait(job.id)).state == "succeeded"
            done += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    elapsed = time.perf_counter() - start
    await runner.drain(within=5.0)
    if isinstance(performer, Fake):
        await performer.worker.close()
    await writer.close()
    database.close()
    return done / elapsed, submits


def spread(values: list[float], unit: str, digits: int = 0) -> str:
    return f"{statistics.median(values):.{digits}f} {unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="database to use; otherwise a new SQLite file")
    parser.add_argument("--folder", type=Path, help="where to make that file; otherwise the system's temporary folder")
    parser.add_argument("--fake", action="store_true", help="with the fake engine")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        url = options.url or f"sqlite:///{Path(folder) / 'queue.db'}"
        transactions: list[float] = []
        jobs: list[float] = []
        submits: list[float] = []
        for number in range(options.rounds):
            transactions.append(raw(url, options.seconds))
            rate, times = asyncio.run(queue(url, options.clients, options.seconds, options.fake))
            jobs.append(rate)
            submits += times
            print(f"round {number + 1}: {transactions[-1]:.0f} transactions/s, {rate:.0f} jobs/s", flush=True)
    shares = [100 * rate / base for rate, base in zip(jobs, transactions, strict=True)]
    percentiles = statistics.quantiles(submits, n=100)
    print(f"driver alone            {spread(transactions, 'committed transactions/s')}")
    print(f"submit, claim, finish   {spread(jobs, 'jobs/s')} with {options.clients} clients")
    print(f"share                   {spread(shares, '%')}")
    print(f"submit                  p50 {1000 * percentiles[49]:.1f} ms, p99 {1000 * percentiles[98]:.1f} ms")


if __name__ == "__main__":
    main()
