"""A child process that serves messages: any generator ``run(inbox)`` behind a pair of pipes.

The child is started afresh (``python -m illustrious.process``), never forked, so it inherits no threads or locks and
works the same on every platform. A message is a JSON object and some raw byte strings:

    4 bytes  big-endian length of the header
    header   JSON ``{"message": {...}, "blobs": [length, ...]}``
    blobs    the byte strings, one after another

The child's standard input is the parent's life line: when it closes, because the parent asked for the end or died,
the child ends at once, whatever it is doing. Standard output carries messages, so the child moves the real one aside
and lets anything else that prints go to standard error.
"""

import asyncio
import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

import psutil

from illustrious import system
from illustrious.errors import EngineFailed

Message = tuple[dict[str, Any], list[bytes]]

HEARTBEAT = "heartbeat"
"""The kind of message that a child sends by itself, every ``BEAT_EVERY`` seconds, whatever else it does."""

BEAT_EVERY = 1.0

CHILD_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait starve the other children
    "HF_HUB_OFFLINE": "1",  # model libraries live in children only: here is where nothing phones home
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def write_message(stream: IO[bytes], message: Message) -> None:
    body, blobs = message
    header = json.dumps({"message": body, "blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(len(header).to_bytes(4, "big") + header + b"".join(blobs))
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message, or ``None`` when the stream ended."""
    prefix = stream.read(4)
    if len(prefix) < 4:
        return None
    header_bytes = stream.read(int.from_bytes(prefix, "big"))
    try:
        header = json.loads(header_bytes)
    except json.JSONDecodeError:  # the writer died in mid-message
        return None
    blobs = [stream.read(length) for length in header["blobs"]]
    if any(len(blob) < length for blob, length in zip(blobs, header["blobs"], strict=True)):
        return None
    return header["message"], blobs


class MessageInbox:
    """The child's side of the incoming pipe."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def put(self, message: Message) -> None:
        self._messages.put(message)

    def get(self, wait: bool) -> Message | None:
        try:
            return self._messages.get(block=wait)
        except queue.Empty:
            return None


class Server(Protocol):
    """What runs in a child: a generator of outgoing messages, fed by an inbox."""

    def run(self, inbox: MessageInbox) -> Iterator[Message]: ...


@dataclass(frozen=True)
class Memory:
    """Bytes that a child takes: of main memory, and of its GPU."""

    rss: int = 0
    vram: int = 0


class Child:
    """The parent's side: start the child, send to it, and read what it says until it ends.

    ``target`` is ``"module:factory"``; the child calls ``factory(options)`` with the JSON object ``options`` and runs
    the :class:`Server` it returns.
    """

    def __init__(self, target: str, options: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self._target = target
        self._options = options
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._heard = time.monotonic()
        self._memory = Memory()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def silence(self) -> float:
        """Seconds since the child was last heard of."""
        return time.monotonic() - self._heard

    @property
    def memory(self) -> Memory:
        """What the child said it takes."""
        return self._memory

    def kill(self) -> None:
        """End a child that must not go on, at once. What it was doing is lost; ``messages`` ends."""
        if self._process is not None:
            self._process.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "illustrious.process", self._target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **CHILD_ENVIRONMENT, **self._environment},
            **system.apart(),
        )
        self._heard = time.monotonic()
        self.send((self._options, []))

    def send(self, message: Message) -> None:
        """Send one message. Raises ``EngineFailed`` when the child is gone."""
        process = self._process
        if process is None or process.stdin is None:
            raise EngineFailed("The worker process is not running.")
        try:
            with self._lock:
                write_message(process.stdin, message)
        except (BrokenPipeError, OSError, ValueError) as error:
            raise EngineFailed("The worker process ended unexpectedly; please try again.") from error

    async def messages(self) -> AsyncIterator[Message]:
        """Everything the child says, in order, until it ends."""
        process = self._process
        if process is None or process.stdout is None:
            return
        stdout = process.stdout
        loop = asyncio.get_running_loop()
        incoming: asyncio.Queue[Message | None] = asyncio.Queue()

        def read() -> None:
            while True:
                try:
                    message = read_message(stdout)
                except (OSError, ValueError):
                    message = None
                try:
                    loop.call_soon_threadsafe(incoming.put_nowait, message)
                except RuntimeError:  # the loop is closed: nobody listens any more
                    return
                if message is None:
                    return

        threading.Thread(target=read, name=f"read {self._target}", daemon=True).start()
        while (message := await incoming.get()) is not None:
            self._heard = time.monotonic()
            if message[0].get("kind") == HEARTBEAT:
                self._memory = Memory(rss=message[0]["rss"], vram=message[0]["vram"])
            else:
                yield message

    def exit_code(self) -> int | None:
        """How the child ended, waiting a moment for it; ``None`` while it runs."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout: float = 5.0) -> None:
        """Close the life line, wait, and kill a child that does not end. Blocking: call it off the event loop."""
        process, self._process = self._process, None
        if process is None:
            return
        # A child that reads no more may hold up a message half-way; closing its pipe would wait for that message.
        if not self._lock.acquire(timeout=timeout):
            process.kill()
            self._lock.acquire()  # the message has failed now
        try:
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        finally:
            self._lock.release()
        try:
            process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            with contextlib.suppress(OSError):
                process.stdout.close()


def serve(target: str) -> None:
    """The child's whole life."""
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    incoming = os.fdopen(os.dup(0), "rb")
    first = read_message(incoming)
    if first is None:
        return
    inbox = MessageInbox()

    def listen() -> None:
        while (message := read_message(incoming)) is not None:
            inbox.put(message)
        os._exit(0)  # the parent is gone or wants us gone: no clean-up is owed, and none may hold us up

    threading.Thread(target=listen, name="inbox", daemon=True).start()
    speaking = threading.Lock()

    def say(message: Message) -> None:
        with speaking:
            write_message(outgoing, message)

    threading.Thread(target=beat, args=(say,), name="heartbeat", daemon=True).start()
    module, _, factory = target.partition(":")
    server: Server = getattr(importlib.import_module(module), factory)(first[0])
    for message in server.run(inbox):
        say(message)


def beat(say: Callable[[Message], None]) -> None:
    """Tell that this process lives, and what memory it takes, until nobody listens."""
    this = psutil.Process()
    with contextlib.suppress(OSError):
        while True:
            say(({"kind": HEARTBEAT, "rss": this.memory_info().rss, "vram": video_memory()}, []))
            time.sleep(BEAT_EVERY)


def resident(pid: int | None) -> int:
    """Bytes of main memory a process takes; 0 where there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid is not None else 0
    except psutil.Error:
        return 0


def video_memory() -> int:
    """Bytes of the GPU that torch holds in this process; 0 where no torch is loaded or no GPU is used."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return int(cuda.memory_reserved()) if cuda is not None and cuda.is_initialized() else 0


if __name__ == "__main__":  # started with -P: the folder it is started in shadows no package
    serve(sys.argv[1])
