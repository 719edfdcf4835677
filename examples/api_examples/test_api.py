"""Try everything the API offers on a running studio, and say what works.

    python test_api.py
    python test_api.py --base-url http://studio.example:8000 --api-key KEY

One line for each check; the exit status is 0 when all of them pass and 1 otherwise.
"""

import argparse
import base64
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from studio_python import restart

try:
    import httpx

    from illustrious.client import ClientError, IllustriousAIClient, RequestRefused, StudioUnreachable
except ImportError:
    restart()

PNG = b"\x89PNG\r\n\x1a\n"


class CheckFailed(Exception):
    """The studio answered, and not what the documentation says."""


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise CheckFailed(otherwise)


class Checks:
    """Each public method is one check, run in this order. It returns what it saw, or raises."""

    def __init__(self, client: IllustriousAIClient, http: httpx.Client) -> None:
        self._client = client
        self._http = http
        self._session = f"test-{uuid.uuid4().hex[:8]}"

    def status(self) -> str:
        status = self._client.check_status()
        expect(status["status"] == "running", f"status is {status['status']!r}")
        expect({"sdxl", "ollama", "multimodal"} <= set(status["models"]), f"models are {status['models']}")
        expect(isinstance(status["gpu_available"], bool), f"gpu_available is {status['gpu_available']!r}")
        backends = status["backends"].items()
        running = [f"{name}: {backend['model']}" for name, backend in backends if backend["available"]]
        return ", ".join([*running, f"on {status['gpu_backend']}"])

    def basic_generation(self) -> str:
        image = self._client.generate_image("a beautiful landscape with mountains and lakes", steps=25, guidance=7.5)
        expect(image.startswith(PNG), "the picture is no PNG file")
        return f"{len(image):,} bytes"

    def advanced_generation(self) -> str:
        answer = self._client.generate(
            "anime girl with blue hair, detailed face, studio lighting",
            negative_prompt="blurry, low quality, bad anatomy",
            steps=30,
            guidance=8.0,
            seed=42,
        )
        expect("Seed: 42" in answer["message"], f"the message is {answer['message']!r}")
        found = self._http.get(answer["image_url"])
        expect(found.content == answer["image"], f"{answer['image_url']} is another picture than the answer's")
        return f"{answer['width']}×{answer['height']}, {answer['model']}"

    def same_seed_same_picture(self) -> str:
        first, second, other = (
            self._client.generate_image("fantasy castle in the clouds", steps=10, seed=seed) for seed in (7, 7, 8)
        )
        expect(first == second, "one seed gave two pictures")
        expect(first != other, "two seeds gave one picture")
        return "seed 7 twice the same, seed 8 another"

    def chat(self) -> str:
        answer = self._client.chat("Hello! How are you today?", session_id=self._session, max_tokens=60)
        expect(bool(answer["response"].strip()), "the answer is empty")
        return shortened(answer["response"])

    def session(self) -> str:
        answer = self._client.chat("And what did I say before?", session_id=self._session, max_tokens=60)
        expect(answer["session_id"] == self._session, f"it answered in session {answer['session_id']!r}")
        return shortened(answer["response"])

    def generate_in_chat(self) -> str:
        answer = self._client.chat("#generate a mystical dragon breathing fire", session_id=self._session)
        expect(base64.b64decode(answer["image_base64"]).startswith(PNG), "the picture is no PNG file")
        return shortened(answer["response"])

    def analysis(self) -> str:
        picture = self._client.generate_image("a red apple", steps=10, seed=1)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "apple.png"
            file.write_bytes(picture)
            analysis = self._client.analyze_image(file, "What objects do you see in this image?")
        expect(bool(analysis.strip()), "the analysis is empty")
        return shortened(analysis)

    def wrong_fields_are_named(self) -> str:
        try:
            self._client.generate_image("a cat", steps=5, guidance=50)
        except RequestRefused as refused:
            fields = {problem.field for problem in refused.problems}
            expect(refused.status == 422, f"it answered {refused.status}")
            expect(fields == {"steps", "guidance"}, f"it named {sorted(fields)}")
            return str(refused)
        raise CheckFailed("5 steps and a guidance of 50 were accepted")

    def a_missing_prompt_is_refused(self) -> str:
        answer = self._http.post("/generate-image", json={})
        problem = answer.json()["detail"][0]
        expect((answer.status_code, problem["type"]) == (422, "missing"), f"it answered {answer.text}")
        return problem["msg"]

    def what_is_no_picture_is_refused(self) -> str:
        answer = self._http.post("/analyze-image", json={"image_base64": "bm8gcGljdHVyZQ=="})
        expect(answer.status_code == 422, f"it answered {answer.status_code}: {answer.text}")
        return answer.json()["detail"][0]["msg"]

    def an_unknown_path_is_json_too(self) -> str:
        answer = self._http.get("/nowhere")
        expect(answer.status_code == 404 and isinstance(answer.json()["detail"], str), f"it answered {answer.text}")
        return answer.json()["detail"]


def shortened(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def run(name: str, check: Callable[[], str]) -> bool:
    begun = time.perf_counter()
    try:
        mark, seen = "✅", check()
    except (CheckFailed, ClientError, httpx.HTTPError) as error:
        mark, seen = "❌", str(error) or type(error).__name__
    except (KeyError, ValueError, TypeError, IndexError) as error:
        mark, seen = "❌", f"the answer has another shape than documented ({type(error).__name__}: {error})"
    print(f"{mark} {name.replace('_', ' ')} ({time.perf_counter() - begun:.1f} s): {seen}", flush=True)
    return mark == "✅"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Try everything the API offers on a running studio.")
    parser.add_argument("--base-url", default="http://localhost:8000", help="where the studio is (%(default)s)")
    parser.add_argument("--api-key", help="its API key, where it asks for one")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that is not UTF-8 shows ? for ✅

    headers = {"X-API-Key": options.api_key} if options.api_key else {}
    with (
        IllustriousAIClient(options.base_url, api_key=options.api_key) as client,
        httpx.Client(base_url=client.base_url, headers=headers, timeout=60, trust_env=False) as http,
    ):
        try:
            client.check_status()
        except StudioUnreachable as error:
            print(f"❌ {error}")
            return 1
        checks = Checks(client, http)
        names = [name for name in vars(Checks) if not name.startswith("_")]
        passed = [run(name, getattr(checks, name)) for name in names]
    print(f"{'✅' if all(passed) else '❌'} {sum(passed)} of {len(passed)} checks passed.")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
