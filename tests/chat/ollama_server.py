"""A small server that speaks Ollama's ``/api``, for tests: what is installed, whether it is up and how it goes wrong
are the test's to say; what it was asked is recorded.

Its one model repeats the conversation: ``<number of messages>: <last message>``, a word a piece.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT_MODEL: dict[str, Any] = {
    "capabilities": ["completion"],
    "details": {"family": "llama", "families": ["llama"]},
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
}
VISION_MODEL: dict[str, Any] = {**CHAT_MODEL, "capabilities": ["completion", "vision"]}
EMBEDDING_MODEL: dict[str, Any] = {
    "capabilities": ["embedding"],
    "details": {"family": "nomic-bert", "families": ["nomic-bert"]},
    "model_info": {"general.architecture": "nomic-bert", "nomic-bert.context_length": 2048},
}


def before_capabilities(model: dict[str, Any], **projector: Any) -> dict[str, Any]:
    """The model as a server before 0.6.4 shows it; ``projector`` as for one that sees."""
    families = [*model["details"]["families"], *(["clip"] if projector else [])]
    old = {key: value for key, value in model.items() if key != "capabilities"}
    shown = {**old, "details": {**old["details"], "families": families}}
    return {**shown, "projector_info": projector} if projector else shown


class OllamaServer:
    def __init__(self, models: dict[str, dict[str, Any]] | None = None) -> None:
        self.models = {"tiny:latest": CHAT_MODEL} if models is None else models
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.gate: threading.Event | None = None
        """When set, an answer waits for it after its first piece."""
        self.hung_up = threading.Event()
        """Set when a client left in the middle of an answer."""
        self.error: str | None = None
        """When set, chats end with this error after their first piece."""
        self.wording: dict[str, str] = {}
        """Words to be said instead of others."""
        self.cuts_off = False
        """When set, the connection breaks after the first piece of an answer."""
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for asked_path, body in self.requests if asked_path == path]

    def up(self) -> None:
        """Listen: on any port at first, on the same one again after ``down``."""
        owner = self

        class Handler(_Handler):
            ollama = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def down(self) -> None:
        if self.gate is not None:
            self.gate.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> "OllamaServer":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: an answer ends where its connection does, so a broken one is cut short of its ``Content-Length``."""

    ollama: OllamaServer

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        self.ollama.requests.append((self.path, {}))
        models = [
            {"name": name, "model": name, "digest": f"digest of {name}", "size": 1, "details": facts["details"]}
            for name, facts in self.ollama.models.items()
        ]
        self._answer({"models": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.ollama.requests.append((self.path, body))
        facts = self.ollama.models.get(body["model"])
        if facts is None:
            self._answer({"error": f"model '{body['model']}' not found"}, status=404)
        elif self.path == "/api/show":
            self._answer(facts)
        else:
            self._chat(body)

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chat(self, body: dict[str, Any]) -> None:
        said = body["messages"]
        words = f"{len(said)}: {said[-1]['content']}".split()
        limit = body["options"]["num_predict"]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        if self.ollama.cuts_off:
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            for position, word in enumerate(words[:limit]):
                word = self.ollama.wording.get(word, word)
                self._piece(content=word if position == 0 else f" {word}")
                if self.ollama.error is not None:
                    return self._line({"error": self.ollama.error})
                if self.ollama.cuts_off:
                    return None
                if self.ollama.gate is not None:
                    self.ollama.gate.wait(10)
            self._piece(content="", done=True, done_reason="length" if len(words) > limit else "stop")
        except OSError:
            self.ollama.hung_up.set()
        return None

    def _piece(self, content: str, **more: Any) -> None:
        self._line({"model": "m", "message": {"role": "assistant", "content": content}, "done": False, **more})

    def _line(self, line: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")
        self.wfile.flush()
