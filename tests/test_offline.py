"""Nothing phones home: a start, a picture, an answer and an analysis, with every way out watched."""

import base64
import io
from pathlib import Path

import httpx
from PIL import Image

from tests.server import running_studio

WATCH = '''
"""Loaded by every Python process of the studio before anything else: notes each attempt to leave this computer."""
import os, socket, sys

LOG = os.environ["WATCH_LOG"]

def note(what, address):
    with open(LOG, "a") as log:
        log.write(f"{what} {address!r} {sys.argv[:3]}\\n")

def audit(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            note(event, address)
            raise ConnectionRefusedError("the network is cut")
    elif event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "::1", "localhost"):
        note(event, arguments[0])
        raise socket.gaierror("the network is cut")

sys.addaudithook(audit)
open(LOG, "a").write("watching\\n")
'''


def test_the_studio_works_with_the_network_cut_and_does_not_try_to_use_it(tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "attempts"
    environment = {"PYTHONPATH": str(tmp_path / "watch"), "WATCH_LOG": str(log), "OMP_NUM_THREADS": "1"}
    with running_studio(tmp_path, environment=environment) as studio:
        http = httpx.Client(base_url=studio.url, timeout=120, trust_env=False)
        drawn = http.post("/generate-image", json={"prompt": "a red apple", "steps": 10, "seed": 1})
        assert drawn.status_code == 200, drawn.text
        picture = drawn.json()["image_base64"]
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (128, 128)
        said = http.post("/chat", json={"message": "Say yes.", "max_tokens": 8})
        assert said.status_code == 200, said.text
        seen = http.post("/analyze-image", json={"image_base64": picture})
        assert seen.status_code == 200, seen.text
    attempts = log.read_text().splitlines()
    # The server and its image, chat and vision children: all of them were watched.
    assert attempts.count("watching") >= 4
    assert [line for line in attempts if line != "watching"] == []
