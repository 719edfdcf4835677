"""The command line, as typed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from illustrious.cli import out, print_backends
from illustrious.types import BackendStatus
from tests.catalog.headers import LORA, SDXL, write_header
from tests.server import RunningStudio, bare_environment, running_studio


def illustrious(home: Path, *arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a verb in an empty home, where nothing is configured and nothing runs at the configured address."""
    environment = {"ILLUSTRIOUS_PORT": "9", **environment}
    return subprocess.run(
        [sys.executable, "-m", "illustrious", *arguments],
        env=bare_environment(home, **environment),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        cwd=home,
    )


def port_of(studio: RunningStudio) -> str:
    return studio.url.rpartition(":")[2]


def test_generate_draws_without_a_server(tmp_path: Path) -> None:
    done = illustrious(tmp_path, "generate", "a red apple", "-o", "apple.png", "--seed", "7", "--fake")
    assert done.returncode == 0, done.stderr
    assert "Seed: 7 → apple.png" in done.stdout
    picture = Image.open(tmp_path / "apple.png")
    assert picture.info["parameters"].startswith("a red apple\n")


def test_generate_draws_as_fast_as_it_is_told(tmp_path: Path, fake_server: RunningStudio) -> None:
    for name, environment in (("here.png", {}), ("there.png", {"ILLUSTRIOUS_PORT": port_of(fake_server)})):
        fake = ["--fake"] if not environment else []
        done = illustrious(tmp_path, "generate", "x", "-o", name, "--speed", "fast", *fake, **environment)
        assert done.returncode == 0, done.stderr
        assert "Speed: fast" in Image.open(tmp_path / name).info["parameters"]


def test_generate_uses_the_server_that_runs(tmp_path: Path, fake_server: RunningStudio) -> None:
    done = illustrious(tmp_path, "generate", "x", "-o", "x.png", "--seed", "7", ILLUSTRIOUS_PORT=port_of(fake_server))
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "x.png").size == (128, 128)
    assert not (tmp_path / ".local").exists()  # no studio of its own was made


def test_generate_says_what_is_wrong(tmp_path: Path) -> None:
    done = illustrious(tmp_path, "generate", "x", "--steps", "0", "--fake")
    assert (done.returncode, done.stderr.strip()) == (1, "❌ --steps: Input should be greater than or equal to 1")
    done = illustrious(tmp_path, "generate", "x", "-o", "no/such/folder.png", "--fake")
    assert done.returncode == 1
    assert "Choose another file with -o" in done.stderr


def test_chat_answers_once_or_line_by_line_and_remembers(tmp_path: Path) -> None:
    assert "hello" in illustrious(tmp_path, "chat", "hello", "--fake").stdout
    lines = illustrious(tmp_path, "chat", "--fake", stdin="one\n#generate a cat\n\n").stdout.splitlines()
    assert "one" in lines[0]
    assert any(line.endswith(".png") and Path(line).is_file() for line in lines)


def test_analyze_describes(tmp_path: Path, fake_server: RunningStudio) -> None:
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "blue.png")
    assert "blue" in illustrious(tmp_path, "analyze", "blue.png", "--fake").stdout
    assert "blue" in illustrious(tmp_path, "analyze", "blue.png", ILLUSTRIOUS_PORT=port_of(fake_server)).stdout


def test_status_says_what_serves_what_or_how_to_start(tmp_path: Path, fake_server: RunningStudio) -> None:
    found = illustrious(tmp_path, "status", ILLUSTRIOUS_PORT=port_of(fake_server))
    assert [line.split()[1] for line in found.stdout.splitlines() if "✅" in line] == ["image", "chat", "vision"]
    missing = illustrious(tmp_path, "status")
    assert missing.returncode == 1
    assert "python main.py" in missing.stderr


def test_status_says_what_went_wrong_and_costs_time() -> None:
    told = BackendStatus(name="sdxl", available=True, warnings=("tiny: No compiler.",))
    with out.capture() as shown:
        print_backends({"image": told.model_dump(), "chat": BackendStatus(name="echo", available=True).model_dump()})
    assert [line.split()[0] for line in shown.get().splitlines()] == ["✅", "⚠️", "✅"]
    assert "tiny: No compiler." in shown.get()


def test_config_tells_where_each_setting_came_from_and_hides_the_key(tmp_path: Path) -> None:
    done = illustrious(tmp_path, "config", ILLUSTRIOUS_API_KEY="hush-hush", ILLUSTRIOUS_STEPS="")
    assert done.returncode == 1  # an unknown name, even an empty one
    assert "'steps'" in done.stderr
    done = illustrious(tmp_path, "config", ILLUSTRIOUS_API_KEY="hush-hush")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["port"] == ["9", "ILLUSTRIOUS_PORT"]
    assert rows["host"] == ["127.0.0.1", "default"]
    assert "hush" not in done.stdout


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = illustrious(tmp_path, "doctor", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starter model" in done.stdout
    done = illustrious(tmp_path, "doctor", "--model", "missing.safetensors")
    assert done.returncode == 1
    assert "missing.safetensors is not there" in done.stdout
    (tmp_path / "data" / "models" / "loras").mkdir(parents=True)
    (tmp_path / "data" / "models" / "loras" / "ink.safetensors").write_bytes(b"half a LoRA")
    done = illustrious(tmp_path, "doctor", "--port", "0", "--data-dir", "data", "--models-dir", "typo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There is no folder typo. Correct --models-dir." in done.stdout
    assert "ink.safetensors is damaged or incomplete" in done.stdout


def test_models_add_puts_a_model_where_it_is_found(tmp_path: Path) -> None:
    write_header(tmp_path / "mine.safetensors", SDXL)
    done = illustrious(tmp_path, "models", "add", "mine.safetensors", "--data-dir", "data")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "models" / "checkpoints" / "mine.safetensors").is_file()


def test_models_list_names_what_there_is_in_all_folders(tmp_path: Path) -> None:
    write_header(tmp_path / "webui" / "models" / "Stable-diffusion" / "ponyMix.safetensors", SDXL)
    write_header(tmp_path / "data" / "models" / "loras" / "style" / "ink.safetensors", LORA)
    done = illustrious(tmp_path, "models", "list", "--data-dir", "data", "--models-dir", "webui")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["image", "ponyMix", "pony", "1024×1024", "default"] in lines
    assert ["image", "sdxl-starter", "starter", "128×128"] in lines
    assert ["lora", "style/ink", "sdxl"] in lines
    done = illustrious(tmp_path, "models", "list", "--data-dir", "data", "--models-dir", "web-ui")
    assert "There is no folder web-ui. Correct --models-dir." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "{taken}"], {}, "is taken by another program"),
        (["--data-dir", "{file}"], {}, "cannot be written"),
        (["--host", "192.0.2.1"], {}, "is not an address of this computer"),
        (["config"], {"ILLUSTRIOUS_COLOUR": "red"}, "There is no setting 'colour'"),
        (["config"], {"ILLUSTRIOUS_PORT": "many"}, "The setting port (ILLUSTRIOUS_PORT) is wrong"),
    ],
)
def test_what_cannot_start_is_one_clear_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        filled = [argument.format(taken=port, file=tmp_path / "file") for argument in arguments]
        done = illustrious(tmp_path, *filled, **environment)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_data_folder_in_use_is_refused(tmp_path: Path, fake_server: RunningStudio) -> None:
    done = illustrious(tmp_path, "serve", "--port", "0", "--data-dir", str(fake_server.data_dir))
    assert done.returncode == 1
    assert "Another studio is using the data folder" in done.stderr


def test_a_damaged_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "studio.db").write_bytes(b"not a database" * 1000)
    done = illustrious(tmp_path, "serve", "--port", "0", "--data-dir", "data")
    assert done.returncode == 1
    assert "studio.db" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_on_ctrl_c(tmp_path: Path, stop: signal.Signals) -> None:
    with running_studio(tmp_path, "--fake") as studio:
        studio.process.send_signal(stop)
        assert studio.process.wait(timeout=20) == 0
        assert studio.printed.rstrip().endswith("Stopped.")
        assert "Traceback" not in studio.printed


@contextlib.contextmanager
def worker_held(http: httpx.Client) -> Iterator[None]:
    """The image worker takes no step until the end of the block."""
    pid = http.get("/workers").json()["workers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def caller(studio: RunningStudio) -> httpx.Client:
    return httpx.Client(base_url=studio.url, trust_env=False, timeout=60)


def wait_for_state(http: httpx.Client, state: str) -> None:
    """Until the only job is in this state."""
    while [job["state"] for job in http.get("/jobs").json()["items"]] != [state]:
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_stopping_lets_the_picture_under_way_end(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, running_studio(tmp_path, "--fake") as studio, caller(studio) as http:
        with worker_held(http):
            answer = pool.submit(http.post, "/generate-image", json={"prompt": "a cat"})
            wait_for_state(http, "running")
            studio.process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                studio.process.wait(timeout=1)
        assert answer.result().status_code == 200
        assert studio.process.wait(timeout=20) == 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_ctrl_c_waits_for_nothing_and_loses_nothing(tmp_path: Path) -> None:
    patient = {"ILLUSTRIOUS_SHUTDOWN_SECONDS": "600"}
    with running_studio(tmp_path, "--fake", environment=patient) as studio, caller(studio) as http, worker_held(http):
        job = http.post("/jobs", json={"prompt": "a cat"}).json()["id"]
        wait_for_state(http, "running")
        studio.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            studio.process.wait(timeout=1)
        studio.process.send_signal(signal.SIGINT)
        assert studio.process.wait(timeout=20) == 0
        assert "Traceback" not in studio.printed
    with running_studio(tmp_path, "--fake") as studio, caller(studio) as http:
        wait_for_state(http, "succeeded")
        assert http.get(f"/jobs/{job}").json()["attempts"] == 2


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_who_follows_a_job_that_stays_does_not_keep_the_studio_from_stopping(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, running_studio(tmp_path, "--fake") as studio, caller(studio) as http:
        with worker_held(http):
            _, second = [http.post("/jobs", json={"prompt": "a cat"}).json()["id"] for _ in range(2)]
            following = pool.submit(http.get, f"/jobs/{second}/events")
            studio.process.send_signal(signal.SIGINT)
        assert '"state": "queued"' in following.result().text
        assert studio.process.wait(timeout=20) == 0
        assert "Cancel" not in studio.printed  # no connection had to be cut


def test_the_start_tells_where_it_is_and_what_it_runs_on(fake_server: RunningStudio) -> None:
    assert fake_server.url in fake_server.printed
    assert str(fake_server.data_dir) in fake_server.printed


def test_an_open_address_makes_a_key_and_shows_it_once(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        studio = stack.enter_context(running_studio(tmp_path, "--fake", "--host", "0.0.0.0"))
        assert httpx.get(f"{studio.url}/status", trust_env=False).status_code == 401
        (line,) = [line for line in studio.printed.splitlines() if "API key" in line]
        key = line.split()[-1]
        answer = httpx.get(f"{studio.url}/status", headers={"X-API-Key": key}, trust_env=False)
        assert json.loads(answer.text)["status"] == "running"
    with running_studio(tmp_path, "--fake", "--host", "0.0.0.0") as studio:
        assert key not in studio.printed
        assert httpx.get(f"{studio.url}/status", headers={"X-API-Key": key}, trust_env=False).status_code == 200
