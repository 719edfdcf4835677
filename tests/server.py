"""A real studio for tests: the server as its users start it, in a process, a home and a data folder of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

import illustrious

ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost|\[::1\]|0\.0\.0\.0):\d{4,5}(?!\d)")
INHERITED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class RunningStudio:
    """``url`` without a slash at its end; ``output`` holds everything the server has printed so far."""

    url: str
    process: subprocess.Popen[bytes]
    home: Path
    data_dir: Path
    output: Path

    @property
    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a newcomer: an empty home, no settings, no Ollama, nothing cached."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {
        **environment,
        "PYTHONPATH": str(Path(illustrious.__file__).parents[1]),  # the server is the code that is tested
        "HOME": str(home),
        "USERPROFILE": str(home),
        "LOCALAPPDATA": str(home / "AppData"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "200",
        "ILLUSTRIOUS_OLLAMA_HOST": "http://127.0.0.1:9",  # the discard port: nobody answers
        **more,
    }


@contextmanager
def running_studio(
    folder: Path, *options: str, environment: dict[str, str] | None = None, start_timeout: float = 120.0
) -> Iterator[RunningStudio]:
    """``illustrious serve`` with these options on a free port; its home and data are made in ``folder``.

    Ended the way a user ends it (Ctrl-C); asserts that it goes by itself and that no child of it stays behind.
    """
    home, data_dir, output = folder / "home", folder / "data", folder / "output.txt"
    home.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "illustrious", "serve", "--port", "0", "--data-dir", str(data_dir), *options],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=bare_environment(home, **(environment or {})),
        )
    studio: RunningStudio | None = None
    try:
        url = _address(process, output, start_timeout)
        studio = RunningStudio(url, process, home, data_dir, output)
        _wait_until_ready(studio, start_timeout)
        yield studio
    finally:
        left = _end(process)
    assert studio is not None
    assert not left, f"processes left behind: {left}\n{studio.printed}"


def _address(process: subprocess.Popen[bytes], output: Path, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        text = output.read_text(encoding="utf-8", errors="replace")
        if found := ADDRESS.search(text):
            return found[0].replace("0.0.0.0", "127.0.0.1")
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{text}"
        time.sleep(0.05)
    raise AssertionError(f"the server printed no address within {timeout:g} s:\n{output.read_text(errors='replace')}")


def _wait_until_ready(studio: RunningStudio, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with httpx.Client(base_url=studio.url, trust_env=False) as http:
        while time.monotonic() < deadline:
            answer = http.get("/health/ready")
            if answer.status_code == 200:
                return
            time.sleep(0.05)
    raise AssertionError(f"the server was not ready within {timeout:g} s: {answer.text}\n{studio.printed}")


def _end(process: subprocess.Popen[bytes], timeout: float = 20.0) -> list[psutil.Process]:
    """Ask the server to end, and return what of it still runs after ``timeout`` (which is killed)."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if process.poll() is None:
        if os.name == "nt":
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)
    left: list[psutil.Process] = []
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        left.append(psutil.Process(process.pid))
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        child.kill()
    return left + alive
