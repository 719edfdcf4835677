"""What `pip install` puts in place is a whole studio: its models, vocabulary and migrations are in the wheel."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.server import bare_environment, running_studio

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, and nothing of the source tree."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def test_an_installed_wheel_draws_and_chats(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "illustrious", "generate", "a red apple", "-o", "apple.png", "--steps", "10"]
    environment = bare_environment(tmp_path, PYTHONPATH=str(site), ILLUSTRIOUS_PORT="9")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "apple.png").stat().st_size > 0
    assert (site / "bin" / "illustrious").is_file() or (site / "Scripts" / "illustrious.exe").is_file()


def test_an_installed_wheel_serves(site: Path, tmp_path: Path) -> None:
    with running_studio(tmp_path, "--fake", environment={"PYTHONPATH": str(site)}) as studio:
        for path in ("/status", "/docs", "/docs/swagger-ui.css"):
            assert httpx.get(f"{studio.url}{path}", trust_env=False).status_code == 200
