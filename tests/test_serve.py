"""The studio as a whole, as its users meet it: what fails, what is killed, what is brought along."""

import base64
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
from PIL import Image

from tests import tiny
from tests.server import RunningStudio, bare_environment, running_studio

CHECKS = Path(__file__).parents[1] / "examples" / "api_examples" / "test_api.py"


def caller(studio: RunningStudio) -> httpx.Client:
    return httpx.Client(base_url=studio.url, trust_env=False, timeout=120)


def blue() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_model_that_cannot_be_loaded_leaves_everything_else_working(tmp_path: Path) -> None:
    pickled = tmp_path / "downloaded.ckpt"
    pickled.write_bytes(pickle.dumps({"state_dict": {}}))
    with running_studio(tmp_path, "--model", str(pickled)) as studio, caller(studio) as http:
        status = http.get("/status").json()
        assert status["models"] == {"sdxl": False, "ollama": True, "multimodal": True}
        reason = status["backends"]["image"]["reason"]
        assert "downloaded.ckpt is a pickled checkpoint" in reason
        for path, body in (("/generate-image", {"prompt": "a cat"}), ("/chat", {"message": "#generate a cat"})):
            answer = http.post(path, json=body)
            assert answer.status_code == 503
            assert answer.json() == {"detail": f"❌ SDXL model not loaded. Please check your model path. {reason}"}
        assert http.post("/chat", json={"message": "Hello!", "max_tokens": 4}).json()["response"]
        assert reason in studio.printed
        assert "blue" in http.post("/analyze-image", json={"image_base64": blue()}).json()["analysis"]


def test_every_check_of_the_example_passes_on_a_single_file_checkpoint(tmp_path: Path) -> None:
    file = tiny.write_single_file(tmp_path / "illustrious-tiny.safetensors")
    with running_studio(tmp_path, "--model", str(file)) as studio:
        done = subprocess.run(
            [sys.executable, str(CHECKS), "--base-url", studio.url],
            env=bare_environment(tmp_path, NO_PROXY="*"),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
        assert re.search(r"✅ image +illustrious-tiny \(sdxl on ", studio.printed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "❌" not in done.stdout


def test_a_killed_server_leaves_no_process_and_keeps_sessions_and_pictures(tmp_path: Path) -> None:
    with running_studio(tmp_path, "--fake") as studio, caller(studio) as http:
        drawn = http.post("/generate-image", json={"prompt": "a cat"}).json()
        said = http.post("/chat", json={"message": "one", "session_id": "mine"}).json()
        children = psutil.Process(studio.process.pid).children(recursive=True)
        studio.process.kill()
        studio.process.wait()
        assert children
        assert psutil.wait_procs(children, timeout=10)[1] == []
    with running_studio(tmp_path, "--fake") as studio, caller(studio) as http:
        assert http.get(drawn["image_url"]).content == base64.b64decode(drawn["image_base64"])
        again = http.post("/chat", json={"message": "two", "session_id": "mine"}).json()
        assert (said["response"], again["response"]) == ("Turn 1: one", "Turn 2: two")
