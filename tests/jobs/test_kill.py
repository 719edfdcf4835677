"""A server that is killed, at whatever it does, loses nothing and does nothing twice."""

import random
import subprocess
import sys
from pathlib import Path

from illustrious.database import Database
from illustrious.jobs.store import JobStore
from illustrious.writer import Writer
from tests.jobs.doomed import NUMBERS

KILLS = 5


def lines_until_killed(url: str, lines: int | None) -> list[tuple[str, int, str, int]]:
    """What a server's clients were told before it was killed after so many lines; ``None`` lets it end."""
    told = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.doomed", url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if not line.endswith("\n"):
                break
            what, number, job_id, attempts = line.split()
            told.append((what, int(number), job_id, int(attempts)))
            if lines is not None and len(told) == lines:
                server.kill()
    assert server.returncode == (0 if lines is None else -9)
    return told


async def test_a_killed_server_loses_nothing_and_does_nothing_twice(url: str) -> None:
    chance = random.Random(7)
    told: list[tuple[str, int, str, int]] = []
    for _ in range(KILLS):
        told += lines_until_killed(url, chance.randrange(1, NUMBERS))
    told += lines_until_killed(url, None)

    database = Database.open(url)
    writer = Writer(database)
    store = JobStore(database, writer)
    jobs = {job.id: job for job in await store.page(limit=10 * NUMBERS)}
    await writer.close()
    database.close()
    assert {job.state for job in jobs.values()} == {"succeeded"}
    assert sorted(job.request["number"] for job in jobs.values()) == list(range(NUMBERS)), "each once"
    for what, number, job_id, attempts in told:
        job = jobs[job_id]
        assert job.request == {"number": number} and job.result == {"square": number**2}
        if what == "finished":
            assert job.attempts == attempts, "what was finished did not run again"
    assert max(job.attempts for job in jobs.values()) > 1, "the kills hit what was running"
