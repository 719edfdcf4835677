"""The founding contract, through the real edge, on the fakes."""

import asyncio
import base64
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from illustrious.errors import EngineFailed, Unavailable
from illustrious.images.process import ImageWorker
from illustrious.service import Studio
from illustrious.types import BackendStatus


def png(size: tuple[int, int] = (8, 8), colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_status_has_the_contracts_fields_and_says_what_serves_what(http: httpx.AsyncClient) -> None:
    body = (await http.get("/status")).json()
    assert body["status"] == "running"
    assert set(body["models"]) == {"sdxl", "ollama", "multimodal"}
    assert body["models"]["ollama"] is True
    assert body["gpu_available"] is False
    assert isinstance(body["gpu_backend"], str)
    assert {name: backend["name"] for name, backend in body["backends"].items()} == {
        "image": "fake",
        "chat": "echo",
        "vision": "palette",
    }


async def test_status_tells_what_went_wrong_and_costs_time(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = BackendStatus(name="sdxl", available=True, warnings=("tiny: No compiler.",))
    monkeypatch.setattr(ImageWorker, "status", lambda worker: told)
    image = (await http.get("/status")).json()["backends"]["image"]
    assert (image["available"], image["warnings"]) == (True, ["tiny: No compiler."])


@contextmanager
def standing_still(worker: ImageWorker) -> Iterator[None]:
    """The worker's process does nothing until the end of the block."""
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
async def test_status_answers_while_the_model_loads_and_while_it_draws(http: httpx.AsyncClient, studio: Studio) -> None:
    (worker,) = studio.workers
    await worker.start()
    while worker.pid is None:
        await asyncio.sleep(0)
    with standing_still(worker):
        waiting = asyncio.create_task(http.post("/generate-image", json={"prompt": "x"}))
        status = (await http.get("/status")).json()
        assert (status["models"]["sdxl"], status["backends"]["image"]["loading"]) == (False, True)
        assert not waiting.done()
    assert (await waiting).status_code == 200
    with standing_still(worker):
        waiting = asyncio.create_task(http.post("/generate-image", json={"prompt": "x"}))
        while worker.state != "drawing":
            await asyncio.sleep(0)
        assert (await http.get("/status")).json()["models"]["sdxl"] is True
        assert not waiting.done()
    assert (await waiting).status_code == 200


async def test_status_answers_during_an_upload(http: httpx.AsyncClient) -> None:
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"image_base64": "'
        halfway.set()
        await go_on.wait()
        yield b64(png()).encode() + b'"}'

    headers = {"content-type": "application/json"}
    uploading = asyncio.create_task(http.post("/analyze-image", content=slowly(), headers=headers))
    await halfway.wait()
    assert (await http.get("/status")).status_code == 200
    assert not uploading.done()
    go_on.set()
    assert (await uploading).status_code == 200


async def test_a_picture_comes_back_with_its_seed_and_stays_in_the_gallery(http: httpx.AsyncClient) -> None:
    answer = await http.post("/generate-image", json={"prompt": "a red apple", "seed": 12345})
    body = answer.json()
    assert answer.status_code == 200
    assert body["success"] is True
    assert body["message"] == "✅ Image generated successfully! Seed: 12345"
    data = base64.b64decode(body["image_base64"])
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    assert picture.info["parameters"].startswith("a red apple\nSteps: 30, Sampler: ")
    saved = await http.get(body["image_url"])
    assert saved.content == data
    assert saved.headers["content-type"] == "image/png"


async def test_a_random_seed_is_drawn_and_told(http: httpx.AsyncClient) -> None:
    seeds = {(await http.post("/generate-image", json={"prompt": "x"})).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(seed >= 0 for seed in seeds)


async def test_richer_fields_act_and_unknown_ones_are_named(http: httpx.AsyncClient) -> None:
    wish = {"prompt": "x", "width": 128, "height": 72, "colour": "red"}
    body = (await http.post("/generate-image", json=wish)).json()
    assert Image.open(io.BytesIO(base64.b64decode(body["image_base64"]))).size == (128, 72)
    assert (body["width"], body["height"]) == (128, 72)
    assert body["warnings"] == ["Unknown field 'colour' was ignored."]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate-image", {}, "prompt"),
        ("/generate-image", {"prompt": " \n"}, "prompt"),
        ("/generate-image", {"prompt": 5}, "prompt"),
        ("/generate-image", {"prompt": "\ud800"}, "prompt"),
        ("/chat", {"message": "nul \0"}, "message"),
        ("/generate-image", {"prompt": "x", "steps": 9}, "steps"),
        ("/generate-image", {"prompt": "x", "steps": 101}, "steps"),
        ("/generate-image", {"prompt": "x", "guidance": 0.9}, "guidance"),
        ("/generate-image", {"prompt": "x", "guidance": 20.1}, "guidance"),
        ("/generate-image", {"prompt": "x", "guidance": float("nan")}, "guidance"),
        ("/generate-image", {"prompt": "x", "guidance": float("inf")}, "guidance"),
        ("/generate-image", {"prompt": "x", "seed": -2}, "seed"),
        ("/generate-image", {"prompt": "x", "seed": 2**53}, "seed"),
        ("/generate-image", {"prompt": "x", "width": 100}, "width"),
        ("/generate-image", {"prompt": "x", "width": 1024, "height": 1024}, "width"),
        ("/chat", {}, "message"),
        ("/chat", {"message": "  "}, "message"),
        ("/chat", {"message": "x", "temperature": 2.1}, "temperature"),
        ("/chat", {"message": "x", "temperature": float("-inf")}, "temperature"),
        ("/chat", {"message": "x", "max_tokens": 0}, "max_tokens"),
        ("/analyze-image", {}, "image_base64"),
        ("/analyze-image", {"image_base64": "not base64!"}, "image_base64"),
        ("/analyze-image", {"image_base64": b64(b"not a picture")}, "image_base64"),
        ("/analyze-image", {"image_base64": b64(png((64, 64))[:-40])}, "image_base64"),
    ],
)
async def test_what_is_out_of_range_is_422_naming_the_field_and_echoing_nothing(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    content = json.dumps(body)
    answer = await http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    problems = answer.json()["detail"]
    assert all(set(problem) == {"type", "loc", "msg"} for problem in problems)
    assert field in problems[0]["loc"]


async def test_a_body_that_is_no_json_is_422(http: httpx.AsyncClient) -> None:
    answer = await http.post("/chat", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert set(answer.json()["detail"][0]) == {"type", "loc", "msg"}


async def test_a_picture_with_too_many_pixels_or_bytes_is_413(http: httpx.AsyncClient) -> None:
    wide = await http.post("/analyze-image", json={"image_base64": b64(png((1024, 1024)))})
    assert wide.status_code == 413
    heavy = await http.post("/analyze-image", json={"image_base64": b64(bytes(1_100_000))})
    assert heavy.status_code == 413
    assert isinstance(heavy.json()["detail"], str)
    heavier = await http.post("/analyze-image", json={"image_base64": b64(bytes(9_000_000))})
    assert heavier.status_code == 413


async def test_a_body_without_an_announced_length_is_bounded_too(http: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        yield b'{"image_base64": "'
        for _ in range(100):
            yield b"A" * 100_000

    answer = await http.post("/analyze-image", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_a_picture_is_analyzed(http: httpx.AsyncClient, prefix: str) -> None:
    answer = await http.post("/analyze-image", json={"image_base64": prefix + b64(png(colour="blue"))})
    assert answer.status_code == 200
    assert "blue" in answer.json()["analysis"]


async def test_chat_answers_in_its_session(http: httpx.AsyncClient) -> None:
    first = await http.post("/chat", json={"message": "Hello!", "session_id": "user_123"})
    assert first.status_code == 200
    assert first.json()["session_id"] == "user_123"
    assert set(first.json()) == {"response", "session_id", "warnings"}
    default = await http.post("/chat", json={"message": "Hello!"})
    assert default.json()["session_id"] == "default"


@pytest.mark.parametrize("command", ["#generate", "#GENERATE\n", "  #Generate  "])
async def test_generate_in_chat_draws(http: httpx.AsyncClient, command: str) -> None:
    body = (await http.post("/chat", json={"message": f"{command} a mystical dragon"})).json()
    assert "a mystical dragon" in body["response"]
    assert "Seed: " in body["response"]
    data = base64.b64decode(body["image_base64"])
    assert Image.open(io.BytesIO(data)).info["parameters"].startswith("a mystical dragon\n")
    assert (await http.get(body["image_url"])).content == data


async def test_generate_in_chat_without_a_prompt_explains_itself(http: httpx.AsyncClient) -> None:
    body = (await http.post("/chat", json={"message": "#generate"})).json()
    assert "#generate a red apple" in body["response"]
    assert "image_base64" not in body


class Broken:
    """Stands in for a part of the studio that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("path", "body", "part", "words"),
    [
        ("/generate-image", {"prompt": "x"}, "generate", "SDXL model not loaded. Please check your model path."),
        ("/chat", {"message": "x"}, "chat", "Ollama model not available."),
        ("/analyze-image", {"image_base64": b64(png())}, "analyze", "Vision model not available."),
    ],
)
async def test_a_model_that_is_not_there_is_503_with_the_reason(
    http: httpx.AsyncClient, studio: Studio, path: str, body: dict[str, str], part: str, words: str
) -> None:
    setattr(studio, part, Broken(Unavailable("Why.")))
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()) == (503, {"detail": f"❌ {words} Why."})


@pytest.mark.parametrize(
    ("path", "body", "part", "words"),
    [
        ("/generate-image", {"prompt": "x"}, "generate", "❌ Generation failed: Why."),
        ("/chat", {"message": "x"}, "chat", "❌ Chat completion failed: Why."),
        ("/analyze-image", {"image_base64": b64(png())}, "analyze", "❌ Analysis failed: Why."),
    ],
)
async def test_a_model_that_fails_is_500_without_a_stack_trace(
    http: httpx.AsyncClient, studio: Studio, path: str, body: dict[str, str], part: str, words: str
) -> None:
    setattr(studio, part, Broken(EngineFailed("Why.")))
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()) == (500, {"detail": words})


async def test_a_bug_is_500_in_json_and_tells_nothing(http: httpx.AsyncClient, studio: Studio) -> None:
    setattr(studio, "chat", Broken(RuntimeError("secret")))  # noqa: B010
    answer = await http.post("/chat", json={"message": "x"})
    assert answer.status_code == 500
    assert "secret" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/chat", 405), ("DELETE", "/status", 405), ("GET", "/images/../../x", 404)],
)
async def test_unknown_paths_and_methods_are_json(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("name", ["..%2F..%2Fstudio.db", "x" * 500, "%00", "studio.db"])
async def test_no_path_reaches_the_file_system_through_a_picture_id(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/images/{name}")
    assert answer.status_code == 404
