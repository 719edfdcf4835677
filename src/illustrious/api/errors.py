"""The error tree as HTTP. Bodies have FastAPI's shape, never echo what was sent, and never show a stack trace."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from illustrious.errors import (
    Cancelled,
    EngineFailed,
    InvalidRequest,
    NotFound,
    QueueFull,
    StorageFailed,
    StudioError,
    TooLarge,
    Unavailable,
)

log = logging.getLogger(__name__)

STATUS: dict[type[StudioError], int] = {
    InvalidRequest: 422,
    TooLarge: 413,
    NotFound: 404,
    Unavailable: 503,
    Cancelled: 409,
    EngineFailed: 500,
    StorageFailed: 500,
    QueueFull: 429,
}


HEADERS = {"Idempotency-Key", "Last-Event-ID"}


def detail(error: StudioError) -> object:
    if isinstance(error, InvalidRequest):
        where = "header" if error.field in HEADERS else "body"
        location = [where, error.field] if error.field else [where]
        return [{"type": "value_error", "loc": location, "msg": str(error)}]
    return str(error)


async def studio_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StudioError)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if job_id := getattr(request.state, "job_id", None):
        headers["X-Job-Id"] = job_id
    return JSONResponse({"detail": detail(error)}, STATUS.get(type(error), 500), headers=headers)


async def validation_error(request: Request, error: Exception) -> JSONResponse:
    """``type``, ``loc`` and ``msg`` alone: ``input`` would echo pictures, and NaN there is no JSON."""
    assert isinstance(error, RequestValidationError)
    shown = ("type", "loc", "msg")
    problems: list[dict[str, Any]] = [{key: problem[key] for key in shown} for problem in error.errors()]
    return JSONResponse({"detail": problems}, 422)


async def http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = error.detail
    if error.status_code == 400 and text == "There was an error parsing the body":
        # No JSON at all (wrong encoding, endless numbers, too deep): to a caller the same as a body that is wrong.
        return JSONResponse({"detail": [{"type": "json_invalid", "loc": ["body"], "msg": "The body is no JSON"}]}, 422)
    if error.status_code == 404 and text == "Not Found":
        text = f"There is nothing at {request.url.path}; /docs lists what there is."
    elif error.status_code == 405 and text == "Method Not Allowed":
        text = f"{request.url.path} does not take {request.method}; /docs lists what it takes."
    return JSONResponse({"detail": text}, error.status_code, headers=error.headers)


async def unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("unforeseen error at %s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": "❌ Something unforeseen went wrong; the server's log says what."}, 500)


def install(app: FastAPI) -> None:
    app.add_exception_handler(StudioError, studio_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unforeseen)
