"""What differs between operating systems, and what every one of them must do."""

import io
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from illustrious import system
from illustrious.errors import CannotStart


def test_a_data_folder_has_one_studio(tmp_path: Path) -> None:
    with system.hold_folder(tmp_path / "data"):
        code = "import sys, pathlib; from illustrious import system; system.hold_folder(pathlib.Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")], capture_output=True, text=True)
        assert "CannotStart: Another studio is using the data folder" in other.stderr
    system.hold_folder(tmp_path / "data").release()


def test_a_data_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotStart, match="--data-dir"):
        system.hold_folder(tmp_path / "file" / "data")


def test_a_taken_port_is_a_clear_error_with_the_next_one() -> None:
    with closing(system.listen("127.0.0.1", 0)) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(CannotStart, match=f"--port {port + 1}"):
            system.listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_a_clear_error(host: str) -> None:
    with pytest.raises(CannotStart, match=r"127\.0\.0\.1"):
        system.listen(host, 0)


def test_a_console_that_is_not_utf8_does_not_crash() -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    system.speak_any_character(console)
    console.write("✅ done")
    console.flush()
    assert console.buffer.getvalue() == b"? done"  # type: ignore[attr-defined]


ONLY_SOMEWHERE = re.compile(
    r"\b(?:os\.(?:name|fork\w*|spawn\w+|kill\w*|waitpid|setsid|uname|nice|chown|mkfifo|O_NOFOLLOW|[gs]ete?[ug]id)|"
    r"sys\.platform|platform\.system|signal\.SIG(?!INT|TERM|_)\w+|multiprocessing|"
    r"import (?:fcntl|pwd|grp|resource|termios|msvcrt|winreg))\b"
)


def test_operating_systems_are_told_apart_in_one_module_alone() -> None:
    package = Path(system.__file__).parent
    found = {file.name for file in package.rglob("*.py") if ONLY_SOMEWHERE.search(file.read_text(encoding="utf-8"))}
    assert found == {"system.py"}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_owner_only(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    system.owner_only(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
