"""The examples, run as their readers run them."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server import RunningStudio, bare_environment
from tests.test_client import Answer, Scripted

EXAMPLES = Path(__file__).parents[1] / "examples"
NOBODY = "http://127.0.0.1:9"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run an example in an empty folder. Whatever happens, no traceback is ever shown."""

    def run(name: str, *arguments: str, encoding: str = "utf-8", given: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "api_examples" / name), *arguments],
            cwd=tmp_path,
            env=bare_environment(tmp_path, PYTHONIOENCODING=encoding),
            input=given.encode(encoding),
            capture_output=True,
            timeout=120,
        )
        output = (done.stdout + done.stderr).decode(encoding)
        assert "Traceback" not in output
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(encoding), output)

    return run


def sidecars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def test_every_check_passes_on_a_well_studio(run: Run, fake_server: RunningStudio) -> None:
    done = run("test_api.py", "--base-url", fake_server.url)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert all(line.startswith("✅") for line in lines)
    assert lines[-1] == "✅ 12 of 12 checks passed."


def test_a_console_that_cannot_show_the_marks_does_not_crash(run: Run, fake_server: RunningStudio) -> None:
    done = run("test_api.py", "--base-url", fake_server.url, encoding="ascii")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "? 12 of 12 checks passed."


def test_a_studio_that_answers_nonsense_fails_its_checks(run: Run) -> None:
    nonsense: Answer = (200, {"Content-Type": "application/json"}, b'{"status": "running", "models": 1}')
    with Scripted(nonsense) as server:
        done = run("test_api.py", "--base-url", server.url)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "❌ 0 of 12 checks passed."


@pytest.mark.parametrize("example", [("test_api.py",), ("batch_generate.py", "a cat")])
def test_a_studio_that_is_not_there_is_one_clear_sentence(run: Run, example: tuple[str, ...]) -> None:
    done = run(*example, "--base-url", NOBODY)
    assert done.returncode == 1
    assert done.stderr.startswith(f"❌ No studio answers at {NOBODY}")
    assert "python main.py" in done.stderr


def test_a_batch_makes_a_file_and_its_parameters_for_each_picture(
    run: Run, fake_server: RunningStudio, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("# ideas\n\na château\n", encoding="utf-8")
    wishes = "--count 2 --steps 12 --guidance 5 --seed 100 --negative blurry --size 72x96 --concurrency 3 --output out"
    given = ["a red apple", "--file", "prompts.txt", "--base-url", fake_server.url, *wishes.split()]
    done = run("batch_generate.py", *given)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 pictures are in out." in done.stdout
    found = sidecars(tmp_path / "out")
    assert [(facts["prompt"], facts["seed"]) for facts in found] == [
        ("a château", 100),
        ("a château", 101),
        ("a red apple", 100),
        ("a red apple", 101),
    ]
    for facts in found:
        picture = Image.open(tmp_path / "out" / facts["file"])
        assert picture.size == (facts["width"], facts["height"]) == (72, 96)
        assert (facts["steps"], facts["guidance"], facts["negative_prompt"]) == (12, 5.0, "blurry")
        assert f"Seed: {facts['seed']}" in picture.info["parameters"]
        assert not {"image", "image_base64"} & set(facts)


def test_a_batch_overwrites_nothing(run: Run, fake_server: RunningStudio, tmp_path: Path) -> None:
    given = ("batch_generate.py", "cat", "--seed", "7", "--steps", "10", "--base-url", fake_server.url)
    run(*given)
    before = {file: file.read_bytes() for file in (tmp_path / "pictures").iterdir()}
    assert run(*given).returncode == 0
    assert {file: file.read_bytes() for file in before} == before
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == [
        "cat-7-2.json",
        "cat-7-2.png",
        "cat-7.json",
        "cat-7.png",
    ]


def test_a_prompt_that_fails_does_not_stop_the_others_and_the_exit_status_tells(
    run: Run, fake_server: RunningStudio, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    done = run("batch_generate.py", " ", "a cat", "--steps", "10", "--base-url", fake_server.url)
    assert done.returncode == 1
    assert "1 of 2 pictures" in done.stdout
    assert "prompt is blank" in done.stderr
    assert len(sidecars(tmp_path / "pictures")) == 1
    assert run("batch_generate.py", "a cat", "--output", "taken", "--base-url", fake_server.url).returncode == 1


def drawn() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    import base64

    answer = {"success": True, "image_base64": base64.b64encode(buffer.getvalue()).decode(), "seed": 1}
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [
        ((429, {"Retry-After": "0"}, b'{"detail": "Busy."}'), 3),
        ((503, {"Retry-After": "0.01"}, b'{"detail": "Loading."}'), 3),
        ((503, {}, b'{"detail": "No model."}'), 1),
        ((422, {}, b'{"detail": []}'), 1),
    ],
)
def test_a_busy_studio_is_asked_again_and_a_hopeless_one_is_not(run: Run, refusal: Answer, attempts: int) -> None:
    answers = iter([(200, {}, b"{}"), refusal, refusal, (200, {}, drawn())])
    with Scripted(lambda: next(answers)) as server:
        done = run("batch_generate.py", "a cat", "--base-url", server.url)
        asked = [path for _, path, _, _ in server.asked if path == "/generate-image"]
    assert len(asked) == attempts
    assert done.returncode == (0 if attempts == 3 else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "nothing to draw"), (("a cat", "--size", "big"), "WIDTHxHEIGHT"), (("a cat", "--count", "0"), "1 or more")],
)
def test_wrong_arguments_are_told(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run("batch_generate.py", *arguments)  # its standard input is no terminal: nothing is asked
    assert done.returncode == 2
    assert words in done.stderr


def test_prompts_come_from_standard_input_too(run: Run, fake_server: RunningStudio, tmp_path: Path) -> None:
    done = run("batch_generate.py", "-f", "-", "--steps", "10", "--base-url", fake_server.url, given="a cat\na dog\n")
    assert done.returncode == 0, done.stderr
    assert {facts["prompt"] for facts in sidecars(tmp_path / "pictures")} == {"a cat", "a dog"}


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None, reason="needs bash and curl")
def test_the_curl_example_draws_chats_and_looks(fake_server: RunningStudio, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(EXAMPLES / "curl.sh"), fake_server.url],
        cwd=tmp_path,
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "apple.png").format == "PNG"
    assert '"analysis":"What is this?' in done.stdout


needs_axios = pytest.mark.skipif(
    shutil.which("node") is None or not (EXAMPLES / "node" / "node_modules" / "axios").is_dir(),
    reason="needs node, and axios: npm install --no-package-lock in examples/node",
)


@needs_axios
def test_the_node_example_draws_chats_and_looks(fake_server: RunningStudio, tmp_path: Path) -> None:
    done = subprocess.run(
        ["node", str(EXAMPLES / "node" / "demo.js"), fake_server.url],
        cwd=tmp_path,
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert Image.open(tmp_path / "rocket.png").format == "PNG"
    assert "AI: Turn" in done.stdout
