"""A PostgreSQL server of one's own, from the system's packages, on a socket in a temporary folder."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISSING = "PostgreSQL is not installed here (Debian: apt-get install postgresql): its half of the suite is left out"


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@contextmanager
def running_postgresql(bin_folder: Path) -> Iterator[str]:
    """The URL of a fresh server. It refuses to run as root: root lends it the packages' own account."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        if user:
            shutil.chown(folder, user)
        options = {"user": user, "group": user, "extra_groups": [] if user else None, "cwd": folder}
        data, password = folder / "data", folder / "password"
        password.write_text("studio")
        if user:
            shutil.chown(password, user)
        subprocess.run(
            [bin_folder / "initdb", "-D", data, "-U", "studio", "-A", "scram-sha-256", "--pwfile", password,
             "-E", "UTF8", "--locale=C.UTF-8"],
            check=True,
            capture_output=True,
            **options,
        )  # fmt: skip
        with subprocess.Popen(
            [bin_folder / "postgres", "-D", data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        ) as server:
            try:
                assert server.stderr is not None
                for line in server.stderr:
                    if "ready to accept connections" in line:
                        break
                else:
                    raise RuntimeError("PostgreSQL did not start")
                yield f"postgresql+psycopg://studio:studio@/postgres?host={folder}"
            finally:
                server.send_signal(signal.SIGINT)  # "fast shutdown"
                server.communicate(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
