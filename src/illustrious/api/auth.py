"""Who may come in: by which name, from which page, with which key, with how large a body.

Four plain ASGI layers, so that nothing is read or buffered before it is allowed.
"""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from illustrious.errors import CannotStart
from illustrious.system import owner_only

DIGEST = re.compile(r"[0-9a-f]{64}")


def is_loopback(host: str) -> bool:
    """Whether a server bound to this address can be reached from this computer alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_digest(key: str) -> str:
    """Keys are long and random, so one round of SHA-256 keeps them as well as a slow hash would."""
    return hashlib.sha256(key.encode()).hexdigest()


def stored_key(file: Path) -> tuple[str, str | None]:
    """The digest of the server's key, and the key itself if it was made just now (it is not kept).

    Raises ``CannotStart`` when the file cannot be read or written.
    """
    unusable = f"The API key file {file} cannot be used: {{}}. Remove it to get a new key."
    try:
        if file.is_file():
            digest = file.read_text(encoding="ascii").strip()
            if not DIGEST.fullmatch(digest):
                raise CannotStart(unusable.format("it holds no SHA-256 digest"))
            return digest, None
        key = secrets.token_urlsafe(32)
        beside = file.with_name(f".{file.name}.part")
        beside.touch()
        owner_only(beside)
        beside.write_text(key_digest(key) + "\n", encoding="ascii")
        beside.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(unusable.format(error)) from error
    return key_digest(key), key


def sent_key(headers: Headers) -> str:
    """The key of a request, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; empty when none was sent."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str, **headers: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text[:120]})
        return
    body = json.dumps({"detail": text}, ensure_ascii=False).encode()
    head = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class HostGuard:
    """Only the names this server goes by, and only from its own pages.

    A page of another site can make a browser on this computer send requests here, and by pointing its own name at
    127.0.0.1 (DNS rebinding) could even read the answers. IP addresses cannot be rebound; names must be known ones.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        name = socket.gethostname().lower()
        self._names = {"localhost", name, f"{name}.local", *(host.lower() for host in allowed)}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(host):
            text = f"This server does not go by the name {host!r}. If it should, add it to the setting allowed_hosts."
            await refuse(scope, receive, send, 403, text)
            return
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if origin is not None and changes and urlsplit(origin).netloc != host and origin not in self._origins:
            text = f"A page of {origin} may not use this server. If it should, add it to the setting cors_origins."
            await refuse(scope, receive, send, 403, text)
            return
        await self._app(scope, receive, send)

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class KeyGuard:
    """``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` on everything but /health."""

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
            return
        if hmac.compare_digest(key_digest(sent_key(Headers(scope=scope))), self._digest):
            await self._app(scope, receive, send)
            return
        text = "This server asks for its API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
        await refuse(scope, receive, send, 401, text, **{"www-authenticate": "Bearer"})


class BodyLimit:
    """No request body over ``limit`` bytes: refused by its announced length, or else cut off while it arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._text = f"The request is larger than the {limit // 1_000_000} MB accepted; send a smaller picture."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            await refuse(scope, receive, send, 413, self._text, connection="close")
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(413, self._text, headers={"connection": "close"})
            return message

        await self._app(scope, counted, send)
