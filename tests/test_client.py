"""The Python client, against a real studio and against servers that misbehave."""

import base64
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from illustrious.client import (
    ClientError,
    GenerationFailed,
    IllustriousAIClient,
    ModelUnavailable,
    RequestRefused,
    StudioUnreachable,
    TimedOut,
    UnexpectedAnswer,
)
from tests.server import RunningStudio


@pytest.fixture
def studio(fake_server: RunningStudio) -> Iterator[IllustriousAIClient]:
    with IllustriousAIClient(fake_server.url) as client:
        yield client


def test_the_default_address_is_the_contracts() -> None:
    with IllustriousAIClient() as client:
        assert client.base_url == "http://localhost:8000"


def test_the_status_says_what_runs(studio: IllustriousAIClient) -> None:
    status = studio.check_status()
    assert status["status"] == "running"
    assert status["models"] == {"sdxl": True, "ollama": True, "multimodal": True}


def test_a_picture_is_png_bytes_and_its_seed_makes_it_again(studio: IllustriousAIClient) -> None:
    once, again = (studio.generate_image("a red apple", steps=10, guidance=7.5, seed=42) for _ in range(2))
    assert Image.open(io.BytesIO(once)).format == "PNG"
    assert Image.open(io.BytesIO(once)).tobytes() == Image.open(io.BytesIO(again)).tobytes()
    assert once != studio.generate_image("a red apple", steps=10, guidance=7.5, seed=43)


def test_the_whole_answer_has_what_the_picture_was_made_of(studio: IllustriousAIClient) -> None:
    answer = studio.generate("a castle", seed=7, width=72, height=96, colour="red")
    assert Image.open(io.BytesIO(answer["image"])).size == (answer["width"], answer["height"]) == (72, 96)
    assert answer["message"] == "✅ Image generated successfully! Seed: 7"
    assert answer["seed"] == 7
    assert any("colour" in warning for warning in answer["warnings"])


def test_a_picture_is_followed_step_by_step(studio: IllustriousAIClient) -> None:
    seen: list[tuple[int, int]] = []
    answer = studio.draw("a castle", lambda step, steps: seen.append((step, steps)), seed=7, steps=5, colour="red")
    assert seen == sorted(seen) and seen[-1] == (5, 5)
    plain = studio.generate("a castle", seed=7, steps=10, colour="red")
    assert set(answer) == set(plain) - {"success", "images"}
    assert Image.open(io.BytesIO(answer["image"])).size == (answer["width"], answer["height"])
    assert (answer["seed"], answer["message"], answer["warnings"]) == (7, plain["message"], plain["warnings"])
    with pytest.raises(RequestRefused, match="steps"):
        studio.draw("a castle", print, steps=151)


def test_a_conversation_remembers_by_its_session(studio: IllustriousAIClient) -> None:
    first = studio.chat("hello", session_id="client test", temperature=0.5, max_tokens=20)
    second = studio.chat("and again", session_id="client test")
    assert first == {"response": "Turn 1: hello", "session_id": "client test", "warnings": []}
    assert second["response"].startswith("Turn 2")


def test_a_picture_can_be_asked_for_in_a_conversation(studio: IllustriousAIClient) -> None:
    answer = studio.chat("#generate a dragon", session_id="client draws")
    assert Image.open(io.BytesIO(base64.b64decode(answer["image_base64"]))).format == "PNG"
    assert answer["image_url"].startswith("/images/")


@pytest.mark.parametrize("name", ["red.png", "red.jpg", "red.webp", "red.gif", "red.bmp", "red.tiff"])
def test_a_picture_file_of_any_format_can_be_analyzed(studio: IllustriousAIClient, tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    assert "red" in studio.analyze_image(str(tmp_path / name), "Which colours are here?").lower()
    assert "red" in studio.analyze_image(tmp_path / name).lower()


def test_a_file_that_is_missing_or_no_picture_is_told_before_anything_is_sent(
    studio: IllustriousAIClient, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("Dear studio")
    for name in ("nowhere.png", "letter.txt"):
        with pytest.raises(OSError, match=name.partition(".")[0] if name == "nowhere.png" else "identify"):
            studio.analyze_image(tmp_path / name)


def test_a_refused_request_names_its_fields(studio: IllustriousAIClient) -> None:
    with pytest.raises(RequestRefused, match="steps") as refused:
        studio.generate_image("a cat", steps=5, guidance=99)
    assert refused.value.status == 422
    assert {problem.field for problem in refused.value.problems} == {"steps", "guidance"}
    assert all(problem.message and problem.type for problem in refused.value.problems)


def test_it_needs_nothing_else_of_the_package() -> None:
    code = (
        "import sys, illustrious.client; "
        "print([name for name in sys.modules if name.startswith('illustrious.') and name != 'illustrious.client'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Servers that are not well


Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    """A server that gives one fixed answer and keeps what it was asked."""

    def __init__(self, answer: Answer | Callable[[], Answer]) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted.asked.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
                status, headers, data = answer() if callable(answer) else answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Scripted":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def answering(status: int, body: object, **headers: str) -> Scripted:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Scripted((status, {name.replace("_", "-"): value for name, value in headers.items()}, data))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, RequestRefused),
        (404, RequestRefused),
        (413, RequestRefused),
        (429, RequestRefused),
        (500, GenerationFailed),
        (502, GenerationFailed),
        (503, ModelUnavailable),
    ],
)
def test_every_kind_of_failure_has_its_type_and_the_servers_words(status: int, kind: type[ClientError]) -> None:
    words = "❌ The words of the server."
    with answering(status, {"detail": words}) as server, IllustriousAIClient(server.url) as client:
        with pytest.raises(kind) as failed:
            client.generate_image("a cat")
        assert (str(failed.value), failed.value.status, failed.value.retry_after) == (words, status, None)


@pytest.mark.parametrize(
    ("events", "kind", "words"),
    [
        (b'event: error\ndata: {"kind": "EngineFailed", "message": "Why."}\n\n', GenerationFailed, "Why."),
        (b'event: error\ndata: {"kind": "Unavailable", "message": "Why."}\n\n', ModelUnavailable, "Why."),
        (b'event: state\ndata: {"state": "cancelled", "attempts": 1}\n\n', GenerationFailed, "cancelled"),
    ],
)
def test_the_end_of_a_job_without_a_picture_is_told(events: bytes, kind: type[ClientError], words: str) -> None:
    answers = iter([(202, {}, b'{"id": "1", "warnings": []}'), (200, {}, events)])
    with (
        Scripted(lambda: next(answers)) as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(kind, match=words),
    ):
        client.draw("a cat", print)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("1.5", 1.5), ("Wed, 21 Oct 2037 07:28:00 GMT", None)])
def test_how_long_to_wait_is_told(header: str, seconds: float | None) -> None:
    with (
        answering(503, {"detail": "Busy."}, Retry_After=header) as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(ModelUnavailable) as busy,
    ):
        client.chat("hello")
    assert busy.value.retry_after == seconds


@pytest.mark.parametrize("body", [b"<html>proxy error</html>", b"", b"[]", b'{"detail": null}', b'{"detail": [1, {}]}'])
def test_a_failure_without_words_still_makes_a_sentence(body: bytes) -> None:
    with (
        answering(500, body) as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(GenerationFailed) as failed,
    ):
        client.chat("hello")
    assert str(failed.value)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"[]", b"{}", b'{"image_base64": "?"}', b"\xff\xfe"])
def test_what_is_no_studio_is_told_apart(body: bytes) -> None:
    with (
        answering(200, body) as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(UnexpectedAnswer, match="not the studio"),
    ):
        client.generate_image("a cat")


def test_a_redirect_is_not_followed() -> None:
    with (
        answering(302, b"", Location="http://elsewhere.example/") as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(UnexpectedAnswer, match=r"elsewhere\.example"),
    ):
        client.check_status()


def test_nobody_there_says_how_to_start_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with IllustriousAIClient(address) as client, pytest.raises(StudioUnreachable, match=r"python main\.py"):
            client.check_status()


@pytest.mark.parametrize("address", ["http://", "http://local host", "http://127.0.0.1:many"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(StudioUnreachable, match="address"):
        IllustriousAIClient(address).check_status()


def test_an_answer_that_does_not_come_is_waited_for_only_so_long() -> None:
    hurry = threading.Event()

    def late() -> Answer:
        hurry.wait(30)
        return 200, {}, b"{}"

    with Scripted(late) as server, IllustriousAIClient(server.url, timeout=0.2) as client:
        try:
            with pytest.raises(TimedOut, match=r"0\.2 s"):
                client.chat("hello")
        finally:
            hurry.set()


def test_a_connection_that_breaks_is_told() -> None:
    too_short = (200, {"Content-Length": "1000"}, b"{")
    with (
        Scripted(too_short) as server,
        IllustriousAIClient(server.url) as client,
        pytest.raises(StudioUnreachable, match="broke"),
    ):
        client.check_status()


def test_the_key_is_sent_as_a_bearer_token_and_fields_are_passed_through() -> None:
    with answering(200, {"response": "hi", "session_id": "s"}) as server:
        with IllustriousAIClient(server.url + "/", api_key="secret") as client:
            client.chat("hello", "s", temperature=0.1, top_k=3)
        method, path, headers, body = server.asked[0]
    assert (method, path, headers["Authorization"]) == ("POST", "/chat", "Bearer secret")
    assert body == {"message": "hello", "session_id": "s", "temperature": 0.1, "top_k": 3}


def test_a_question_left_out_is_not_sent_so_that_the_servers_default_holds(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    with answering(200, {"analysis": "black"}) as server, IllustriousAIClient(server.url) as client:
        client.analyze_image(tmp_path / "black.png")
        assert set(server.asked[0][3]) == {"image_base64"}
        assert base64.b64decode(server.asked[0][3]["image_base64"]) == (tmp_path / "black.png").read_bytes()


def test_no_proxy_stands_between_this_computer_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(200, {"status": "running"}) as server, IllustriousAIClient(server.url) as client:
        assert client.check_status() == {"status": "running"}


def test_a_proxy_is_used_to_reach_another_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, {"status": "running"}) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        with IllustriousAIClient("http://studio.example:8000") as client:
            client.check_status()
        assert proxy.asked[0][1] == "http://studio.example:8000/status"
