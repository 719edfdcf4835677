"""The bootstrap's decisions; that it really installs is shown by the suite itself, which runs in what it made."""

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import venv
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """main.py, looking at a folder of its own."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "main.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "installed")
    return module


class Installation:
    """Records what pip is asked for, and fails at what it is told to."""

    def __init__(self, bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self.failing = failing
        monkeypatch.setattr(bootstrap, "pip", self.pip)
        monkeypatch.setattr(bootstrap, "accelerator", lambda: "mps")
        monkeypatch.setattr(bootstrap, "has_venv", lambda: True)
        python = bootstrap.venv_python()
        python.parent.mkdir(parents=True)
        python.touch()

    def pip(self, *arguments: str) -> None:
        self.asked.append(arguments)
        if self.failing and any(self.failing in argument for argument in arguments):
            raise subprocess.CalledProcessError(1, "pip")


def test_torch_comes_first_then_the_studio_then_the_starter_language_model(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(bootstrap, monkeypatch)
    bootstrap.install("")
    torch, studio, upscaling, starter = installation.asked
    assert torch[0].startswith("torch==")
    assert studio[-2:] == ("--editable", str(bootstrap.ROOT))
    for alone, file in ((upscaling, "upscaling.txt"), (starter, "starter-chat.txt")):
        assert "--no-deps" in alone and "--require-hashes" in alone and alone[-1].endswith(file)
    assert bootstrap.installed("")
    assert not bootstrap.installed("test")


def test_for_the_tests_their_tools_are_installed_without_what_these_insist_on(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(bootstrap, monkeypatch)
    bootstrap.install("test")
    _, studio, _, tools, _ = installation.asked
    assert studio[-1] == f"{bootstrap.ROOT}[test]"
    assert "--no-deps" in tools and tools[-1].endswith("alone.txt")


def test_an_interrupted_installation_is_begun_again(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = Installation(bootstrap, monkeypatch)
    bootstrap.install("")
    installation.failing = "--editable"
    with pytest.raises(SystemExit, match="start again"):
        bootstrap.install("test")
    assert not bootstrap.installed("")
    installation.failing = ""
    bootstrap.install("test")
    assert bootstrap.installed("") and bootstrap.installed("test")


def test_an_environment_that_is_half_made_or_of_another_python_is_made_anew(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not bootstrap.has_venv()
    venv.EnvBuilder(with_pip=False).create(bootstrap.VENV)  # interrupted before pip was put into it
    assert not bootstrap.has_venv()
    monkeypatch.setattr(bootstrap, "VENV", Path(sys.prefix))
    assert bootstrap.has_venv()
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert not bootstrap.has_venv()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_it_installs_is_one_sentence(tmp_path: Path) -> None:
    for name in (
        "main.py",
        "constraints.txt",
        "pyproject.toml",
        "src/illustrious/data/starter-chat.txt",
        "src/illustrious/data/upscaling.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "main.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout and process.stderr
        assert "Making .venv" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "Stopped. The next start goes on from here.\n"
    assert process.returncode == 1


def test_an_older_python_can_read_it_as_far_as_what_it_is_told(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ast.parse((ROOT / "main.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        annotations = [function.returns, *(argument.annotation for argument in function.args.args)]
        assert all(isinstance(annotation, ast.Name | ast.Constant | None) for annotation in annotations), function.name
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        bootstrap.main([])


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_a_changed_list_installs_again(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Installation(bootstrap, monkeypatch)
    bootstrap.install("")
    with (bootstrap.ROOT / name).open("a") as file:
        file.write("\n# changed\n")
    assert not bootstrap.installed("")


def test_without_the_starter_language_model_everything_else_is_installed(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Installation(bootstrap, monkeypatch, failing="starter-chat.txt")
    bootstrap.install("")
    assert bootstrap.installed("")
    assert "models add starter-chat" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("script", [".ci/run", "examples/curl.sh"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_a_python_without_venv_is_told_what_to_install(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        bootstrap.install("")


@pytest.mark.parametrize(
    ("kind", "platform", "index"),
    [
        ("cuda", "linux", None),
        ("cuda", "win32", "cu130"),
        ("rocm", "linux", "rocm7.1"),
        ("cpu", "linux", "cpu"),
        ("cpu", "win32", None),
        ("mps", "darwin", None),
    ],
)
def test_which_build_of_torch(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str, platform: str, index: str | None
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", platform)
    version = bootstrap.pinned_torch().removeprefix("torch==")
    with there(f"torch-{version}%2Bbuild-cp311-cp311-linux_x86_64.whl") as address:
        monkeypatch.setattr(bootstrap, "TORCH_INDEX", address)
        assert bootstrap.torch_index(kind) == (f"{address}/{index}" if index else None)


def test_an_index_without_our_version_is_left(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with there("torch-2.0.0%2Bcu118-cp311-cp311-win_amd64.whl") as address:
        monkeypatch.setattr(bootstrap, "TORCH_INDEX", address)
        assert bootstrap.torch_index("rocm") is None


@pytest.mark.parametrize(
    ("platform", "tools", "devices", "kind"),
    [
        ("darwin", (), (), "mps"),
        ("linux", ("nvidia-smi",), (), "cuda"),
        ("win32", ("nvidia-smi",), (), "cuda"),
        ("linux", (), ("/proc/driver/nvidia/version",), "cuda"),
        ("linux", ("rocminfo",), (), "rocm"),
        ("linux", (), ("/dev/kfd",), "rocm"),
        ("linux", (), (), "cpu"),
        ("win32", (), (), "cpu"),
    ],
)
def test_the_build_is_that_of_the_driver_that_is_there(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    tools: tuple[str, ...],
    devices: tuple[str, ...],
    kind: str,
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", platform)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda tool: tool if tool in tools else None)
    monkeypatch.setattr(bootstrap.Path, "exists", lambda path: path.as_posix() in devices)
    assert bootstrap.accelerator() == kind


def test_an_index_that_cannot_be_reached_is_left_quietly_and_soon(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "TORCH_INDEX", "http://127.0.0.1:9")
    assert bootstrap.torch_index("cpu") is None
    assert capsys.readouterr().out == ""


class there:
    """A package index that is there, and lists one file."""

    def __init__(self, file: str) -> None:
        self.page = f'<a href="{file}">a wheel</a>'.encode()

    def __enter__(self) -> str:
        page = self.page

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
