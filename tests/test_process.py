"""A child process serves messages, and ends when its parent does."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from illustrious.errors import EngineFailed
from illustrious.process import Child, Message, MessageInbox


class Echo:
    """Prints on standard output too: that must not disturb the messages."""

    def __init__(self, options: dict[str, object]) -> None:
        self.greeting = options["greeting"]

    def run(self, inbox: MessageInbox) -> Iterator[Message]:
        yield {"greeting": self.greeting, "pid": os.getpid()}, []
        while (message := inbox.get(wait=True)) is not None:
            print("noise on standard output")
            yield message


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("tests.test_process:Echo", {"greeting": "hello"}, {"PYTHONPATH": str(Path(__file__).parents[1])})
    child.start()
    yield child
    child.stop()


async def test_messages_and_their_bytes_arrive_as_they_were_sent(child: Child) -> None:
    messages = child.messages()
    greeting, _ = await anext(messages)
    assert greeting == {"greeting": "hello", "pid": child.pid}
    child.send(({"name": "é✅"}, [b"\x00\xff" * 100_000, b""]))
    assert await anext(messages) == ({"name": "é✅"}, [b"\x00\xff" * 100_000, b""])


async def test_a_killed_child_ends_the_stream_and_refuses_more(child: Child) -> None:
    messages = child.messages()
    await anext(messages)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert [message async for message in messages] == []
    assert child.exit_code() == -signal.SIGKILL
    with pytest.raises(EngineFailed, match="try again"):
        child.send(({}, [b"x" * 1_000_000]))


def test_the_child_of_a_killed_parent_ends_by_itself() -> None:
    script = (
        "import asyncio, sys\n"
        "from illustrious.process import Child\n"
        "async def main():\n"
        "    child = Child('tests.test_process:Echo', {'greeting': 'hi'})\n"
        "    child.start()\n"
        "    await anext(child.messages())\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_stop_leaves_no_process(child: Child) -> None:
    async def first() -> None:
        await anext(child.messages())

    asyncio.run(first())
    process = psutil.Process(child.pid)
    child.stop()
    assert not process.is_running()
