"""A server that will be killed: ``python -m tests.jobs.doomed URL``.

Its clients submit the same numbers each time it runs, under the same keys, and print what they were told.
"""

import asyncio
import sys

from illustrious.database import Database
from illustrious.jobs import Job, Outcome, Report, Submission
from illustrious.jobs.events import EventLog
from illustrious.jobs.runner import Runner
from illustrious.jobs.store import JobStore
from illustrious.writer import Writer

NUMBERS = 160
CLIENTS = 8


class Squarer:
    name = "squarer"
    capacity = 4

    async def perform(self, job: Job, report: Report) -> Outcome:
        await asyncio.sleep(0.005)  # so that a kill finds something running
        return Outcome(result={"square": job.request["number"] ** 2})


async def client(runner: Runner, first: int) -> None:
    for number in range(first, NUMBERS, CLIENTS):
        submission = Submission(
            kind="square", request={"number": number}, owner=str(first), idempotency_key=str(number)
        )
        job, _ = await runner.submit(submission)
        print("accepted", number, job.id, 0, flush=True)
        job = await runner.wait(job.id)
        print("finished", number, job.id, job.attempts, flush=True)


async def main(url: str) -> None:
    database = Database.open(url)
    writer = Writer(database)
    runner = Runner(JobStore(database, writer), EventLog(), [Squarer()])
    await runner.start()
    await asyncio.gather(*(client(runner, first) for first in range(CLIENTS)))
    await runner.drain(within=1.0)
    await writer.close()
    database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
