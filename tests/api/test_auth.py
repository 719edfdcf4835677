"""Who may come in."""

from pathlib import Path

import httpx
import pytest

from illustrious.api.auth import is_loopback, key_digest, stored_key
from illustrious.app import api_key_digest, create_app
from illustrious.errors import CannotStart
from illustrious.service import Studio
from illustrious.settings import Settings


def client(settings: Settings, studio: Studio, key: str | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(settings, studio, key))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5:8000", 200),
        ("studio.localhost", 200),
        ("art.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
async def test_only_names_the_server_goes_by(settings: Settings, studio: Studio, host: str, status: int) -> None:
    settings = settings.model_copy(update={"allowed_hosts": ("art.example",)})
    async with client(settings, studio) as http:
        answer = await http.get("/status", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert "allowed_hosts" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:8000", 200),
        ("https://ui.example", 200),
        ("http://127.0.0.1:9000", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
async def test_only_its_own_pages_and_the_configured_ones_may_ask_for_work(
    settings: Settings, studio: Studio, origin: str | None, status: int
) -> None:
    settings = settings.model_copy(update={"cors_origins": ("https://ui.example",)})
    async with client(settings, studio) as http:
        headers = {"origin": origin} if origin else {}
        answer = await http.post("/chat", json={"message": "hi"}, headers=headers)
    assert answer.status_code == status


async def test_no_cors_unless_configured(settings: Settings, studio: Studio) -> None:
    async with client(settings, studio) as http:
        answer = await http.get("/status", headers={"origin": "https://ui.example"})
        assert "access-control-allow-origin" not in answer.headers
    settings = settings.model_copy(update={"cors_origins": ("https://ui.example",)})
    async with client(settings, studio, key_digest("k")) as http:
        ask = {"origin": "https://ui.example", "access-control-request-method": "POST"}
        answer = await http.options("/chat", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"


async def test_a_key_is_asked_for_everywhere_but_health(settings: Settings, studio: Studio) -> None:
    async with client(settings, studio, key_digest("k3y")) as http:
        refused = await http.get("/status")
        assert refused.status_code == 401
        assert "Bearer" in refused.json()["detail"]
        assert (await http.get("/status", headers={"authorization": "Bearer wrong"})).status_code == 401
        assert (await http.get("/status", headers={"authorization": "Bearer k3y"})).status_code == 200
        assert (await http.get("/status", headers={"x-api-key": "k3y"})).status_code == 200
        assert (await http.get("/health/live")).status_code == 200


def test_an_address_others_can_reach_makes_a_key_and_keeps_only_its_digest(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    digest, key = api_key_digest(settings)
    assert key is not None and digest == key_digest(key)
    assert api_key_digest(settings) == (digest, None)
    (file,) = tmp_path.iterdir()
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_configured_key_is_asked_for_everywhere_and_no_auth_must_be_said(tmp_path: Path) -> None:
    assert api_key_digest(Settings(data_dir=tmp_path)) == (None, None)
    assert api_key_digest(Settings(data_dir=tmp_path, api_key="my own key"))[0] == key_digest("my own key")
    assert api_key_digest(Settings(data_dir=tmp_path, host="0.0.0.0", auth=False)) == (None, None)


async def test_no_server_without_a_key_on_an_open_address(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="--no-auth"):
        create_app(Settings(data_dir=tmp_path, host="0.0.0.0"), studio)
    create_app(Settings(data_dir=tmp_path, host="0.0.0.0", auth=False), studio)


def test_an_unusable_key_file_is_a_clear_error(tmp_path: Path) -> None:
    for content in (b"\xff\xfe", b"", b"cut off"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(CannotStart, match="Remove it"):
            stored_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
