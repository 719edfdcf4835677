"""The one module that knows operating systems apart: every call that exists on some platforms only is here, guarded."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import psutil
from filelock import FileLock, Timeout

from illustrious.errors import CannotStart


def apart() -> dict[str, Any]:
    """Arguments for ``subprocess.Popen`` that keep a child away from the console.

    Ctrl-C is for the server, which then closes the child's life line: on POSIX the child gets a session of its own, on
    Windows a process group of its own and no window.
    """
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def speak_any_character(*streams: IO[str]) -> None:
    """Let a console that is not UTF-8 show ``?`` for ✅ instead of crashing on it."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def owner_only(path: Path) -> None:
    """Let nobody but the owner read the file. Windows user folders are so by themselves."""
    if os.name == "posix":
        path.chmod(0o600)


def sync_folder(folder: Path) -> None:
    """Bring the names in it to the disk. Windows has no way to ask for it, and needs none. Raises ``OSError``."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask the studio to end."""
    return [signal.SIGINT, signal.SIGTERM] if os.name == "posix" else [signal.SIGINT]


def hangup_signals() -> list[signal.Signals]:
    """What a process gets when its terminal is closed."""
    return [signal.SIGHUP] if os.name == "posix" else []


def hold_folder(folder: Path) -> FileLock:
    """Take the data folder for this process, until it ends (the system frees the lock even after a kill).

    Raises ``CannotStart`` when it cannot be made or written, or when another studio holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise CannotStart(
            f"The data folder {folder} cannot be written ({error.strerror}). "
            "Choose another with --data-dir, or mend its permissions."
        ) from error
    lock = FileLock(folder / "studio.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CannotStart(
            f"Another studio is using the data folder {folder}. Stop that one, or choose another with --data-dir."
        ) from error
    return lock


def peak_memory() -> int:
    """The most main memory this process has had at a time, in bytes, since ``forget_peak_memory``; where the system
    does not tell, what it has now."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def forget_peak_memory() -> None:
    """Begin anew, where the system can (Linux, by proc_pid_clear_refs(5))."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, ready for a server. Raises ``CannotStart`` when it is taken or not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotStart(f"{host} is not an address of this computer; try --host 127.0.0.1.") from error
    listener = socket.socket(family, kind, protocol)
    if os.name == "posix":  # a port of a server that has just ended may be used again at once
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except PermissionError as error:
        listener.close()
        raise CannotStart(f"Port {port} needs more rights than you have; choose one above 1023 with --port.") from error
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {port} is taken by another program (perhaps a studio that runs already). "
                f"Choose another with --port {port + 1}."
            ) from error
        raise CannotStart(f"{host} is not an address of this computer; try --host 127.0.0.1.") from error
    return listener
