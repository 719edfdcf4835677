"""The Python client of a studio's HTTP API. It depends on httpx alone, so this one file can be copied anywhere.

    from illustrious.client import IllustriousAIClient

    with IllustriousAIClient() as studio:
        png = studio.generate_image("a red apple", seed=42)

On success every method returns what the API documentation says; on failure it raises one of the errors below, each
with the server's own words.
"""

import base64
import io
import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

CONNECT_TIMEOUT = 5.0
"""Seconds until a server that does not even take the connection counts as not there."""

STATUS_TIMEOUT = 10.0
"""Seconds for ``/status``, which answers in milliseconds whatever the studio is doing."""

EVENT_TIMEOUT = 60.0
"""Seconds without a sign of life after which a job is followed no more; the studio gives one every 15."""

PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
"""How the formats begin that the studio reads by itself: PNG, JPEG, GIF, WebP."""


class ClientError(Exception):
    """Anything that kept the studio's answer from the caller. Its text is a sentence for a person.

    ``status`` is the HTTP status, ``None`` where there was none. ``retry_after`` is how many seconds the server asks to
    wait before the next attempt, ``None`` where it did not say.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class StudioUnreachable(ClientError):
    """Nothing answers at this address, or the connection broke."""


class TimedOut(ClientError):
    """The studio took the request and did not answer within the time allowed."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a request: ``field`` is where (``steps``), ``message`` what, ``type`` the kind of error."""

    field: str
    message: str
    type: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class RequestRefused(ClientError):
    """The studio does not serve this request as it is (4xx): wrong fields, too large, no key, no such thing.

    ``problems`` has one entry for each wrong field of a 422, and is empty otherwise.
    """

    def __init__(
        self, message: str, *, status: int, retry_after: float | None = None, problems: tuple[Problem, ...] = ()
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self.problems = problems


class ModelUnavailable(ClientError):
    """The model that would serve this is not there (503). The text says why and what to do."""


class GenerationFailed(ClientError):
    """The studio failed at this one picture, answer or analysis (any other 5xx)."""


class UnexpectedAnswer(ClientError):
    """What answered is not a studio: a redirect, a web page, JSON of another shape."""


class IllustriousAIClient:
    """Talks to the studio at ``base_url``. May be shared between threads; ``close`` it, or use it with ``with``.

    ``api_key`` is sent as a bearer token. ``timeout`` is how many seconds one answer may take: drawing a large picture
    without a graphics card takes minutes, and pictures wait for those before them; ``None`` waits for ever. Proxies
    set in the environment are used, except to this computer itself.
    """

    def __init__(
        self, base_url: str = "http://localhost:8000", api_key: str | None = None, timeout: float | None = 600.0
    ) -> None:
        self.base_url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/")
        self._timeout = timeout
        try:
            self._http = httpx.Client(
                base_url=self.base_url,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                timeout=self._within(timeout),
                trust_env=not _is_this_computer(httpx.URL(self.base_url).host),
            )
        except httpx.InvalidURL as error:
            raise StudioUnreachable(
                f"{base_url!r} is not an address ({error}); one looks like http://localhost:8000."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections. The client cannot be used any more."""
        self._http.close()

    def check_status(self) -> dict[str, Any]:
        """What runs and on what: the answer of ``/status``. Raises :class:`ClientError`, as every method does."""
        limit = STATUS_TIMEOUT if self._timeout is None else min(STATUS_TIMEOUT, self._timeout)
        return self._ask("GET", "/status", limit)

    def generate_image(self, prompt: str, **kwargs: Any) -> bytes:
        """Draw a picture; returns the PNG file. ``kwargs`` are fields of ``/generate-image``: ``negative_prompt``,
        ``steps``, ``guidance``, ``seed``, ``width``, ``height``, …"""
        image: bytes = self.generate(prompt, **kwargs)["image"]
        return image

    def generate(self, prompt: str, **kwargs: Any) -> dict[str, Any]:
        """Like :meth:`generate_image`, with the whole answer: ``message``, ``seed``, ``width``, ``height``, ``model``,
        ``image_id``, ``image_url``, ``warnings``, and the PNG file as ``image`` in place of ``image_base64``."""
        answer = self._ask("POST", "/generate-image", self._timeout, {"prompt": prompt, **kwargs})
        try:
            answer["image"] = base64.b64decode(answer.pop("image_base64"), validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise self._unexpected("no picture is in its answer") from error
        return answer

    def draw(self, prompt: str, on_step: Callable[[int, int], None], **kwargs: Any) -> dict[str, Any]:
        """Like :meth:`generate`, as a job: ``on_step(step, steps)`` is told of the steps while they are taken, and of
        the last in any case, though the picture may be there before anyone can listen. ``kwargs`` are fields of
        ``/jobs``, whose ranges are wider. Waits as long as the studio gives signs of life."""
        job = self._ask("POST", "/jobs", self._timeout, {"prompt": prompt, **kwargs})
        taken, steps = 0, 1
        for event, data in self._events(f"/jobs/{job['id']}/events"):
            if event == "step":
                taken, steps = data["step"], data["steps"]
                on_step(taken, steps)
            elif event == "error":
                raise (ModelUnavailable if data["kind"] == "Unavailable" else GenerationFailed)(data["message"])
            elif event == "result":
                if taken < steps:
                    progress = self._ask("GET", f"/jobs/{job['id']}", self._timeout)["progress"]
                    on_step(progress["step"], progress["steps"])
                picture = data["images"][0]
                with self._told(self._timeout):
                    file = self._http.get(picture["url"])
                if not file.is_success:
                    raise self._refusal(file)
                about = {name: picture[name] for name in ("seed", "width", "height", "model", "speed")}
                return {**about, "image_id": picture["id"], "image_url": picture["url"], "image": file.content,
                        "message": f"✅ Image generated successfully! Seed: {picture['seed']}",
                        "warnings": [*job["warnings"], *data["warnings"]]}  # fmt: skip
        raise GenerationFailed("The picture was cancelled. Ask for it again if it is still wanted.")

    def chat(self, message: str, session_id: str = "default", **kwargs: Any) -> dict[str, Any]:
        """Say something within a session; returns ``response``, ``session_id`` and, where ``message`` began with
        ``#generate``, the picture in ``image_base64``. ``kwargs`` are ``temperature``, ``max_tokens``, …"""
        return self._ask("POST", "/chat", self._timeout, {"message": message, "session_id": session_id, **kwargs})

    def analyze_image(self, image_path: str | PathLike[str], question: str | None = None) -> str:
        """Ask about the picture in a file (any format Pillow reads). ``OSError`` when the file cannot be read."""
        data = {"image_base64": base64.b64encode(_picture_file(Path(image_path))).decode("ascii")}
        if question:
            data["question"] = question
        answer = self._ask("POST", "/analyze-image", self._timeout, data)
        try:
            return str(answer["analysis"])
        except KeyError as error:
            raise self._unexpected("no analysis is in its answer") from error

    def _ask(self, method: str, path: str, limit: float | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._told(limit):
            response = self._http.request(method, path, json=body, timeout=self._within(limit))
        if not response.is_success:
            raise self._refusal(response)
        return self._json_object(response)

    def _events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-sent events, name and data, until the stream ends."""
        with self._told(EVENT_TIMEOUT), self._http.stream("GET", path, timeout=self._within(EVENT_TIMEOUT)) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    @contextmanager
    def _told(self, limit: float | None) -> Iterator[None]:
        """What happens to a connection, in words."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise StudioUnreachable(self._nobody("does not take the connection")) from error
        except httpx.ConnectError as error:
            raise StudioUnreachable(self._nobody(str(error) or "connection failed")) from error
        except httpx.TimeoutException as error:
            raise TimedOut(
                f"The studio at {self.base_url} did not answer within {limit:g} s. "
                "It may still be drawing: give IllustriousAIClient a longer timeout, or ask for fewer steps."
            ) from error
        except httpx.TransportError as error:
            raise StudioUnreachable(
                f"The connection to {self.base_url} broke ({error or type(error).__name__}). "
                "Look whether the studio is still running, then try again."
            ) from error

    def _refusal(self, response: httpx.Response) -> ClientError:
        status, wait = response.status_code, _retry_after(response.headers)
        if response.is_redirect:
            return self._unexpected(f"it points to {response.headers.get('location', 'another address')}", status)
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = None
        problems = _problems(detail)
        words = "; ".join(str(problem) for problem in problems)
        if isinstance(detail, str):
            words = detail
        words = words or f"The server at {self.base_url} answered {status} {response.reason_phrase} and no reason."
        if status == 503:
            return ModelUnavailable(words, status=status, retry_after=wait)
        if status >= 500:
            return GenerationFailed(words, status=status, retry_after=wait)
        return RequestRefused(words, status=status, retry_after=wait, problems=problems)

    def _json_object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError as error:
            raise self._unexpected("its answer is no JSON", response.status_code) from error
        if not isinstance(answer, dict):
            raise self._unexpected("its answer is no JSON object", response.status_code)
        return answer

    def _unexpected(self, what: str, status: int | None = None) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"What answers at {self.base_url} is not the studio ({what}). Check the address and port.", status=status
        )

    def _nobody(self, why: str) -> str:
        return f"No studio answers at {self.base_url} ({why}). Start one with `python main.py`, or correct the address."

    @staticmethod
    def _within(seconds: float | None) -> httpx.Timeout:
        connect = CONNECT_TIMEOUT if seconds is None else min(CONNECT_TIMEOUT, seconds)
        return httpx.Timeout(seconds, connect=connect)


def _is_this_computer(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _picture_file(path: Path) -> bytes:
    """The file as it is where the studio reads its format, else converted to PNG."""
    data = path.read_bytes()
    if data.startswith(PICTURE_STARTS):
        return data
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:  # UnidentifiedImageError is an OSError
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def _problems(detail: object) -> tuple[Problem, ...]:
    """FastAPI's list of ``{"type", "loc", "msg"}``; ``loc`` begins with where the field is (``body``)."""
    if not isinstance(detail, list):
        return ()
    entries = [entry for entry in detail if isinstance(entry, dict)]
    return tuple(
        Problem(
            field=".".join(str(part) for part in (entry.get("loc") or ["body"])[1:]),
            message=str(entry.get("msg", "")),
            type=str(entry.get("type", "")),
        )
        for entry in entries
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds; its other form, a date, is for caches and is not sent by the studio."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
