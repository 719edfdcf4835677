"""The HTTP edge: one file per dialect, each with its bodies, its translation to nouns and its ``router``."""

from typing import Annotated

from fastapi import Depends, Request, Response

from illustrious.api.auth import key_digest, sent_key
from illustrious.errors import InvalidRequest
from illustrious.jobs import Job
from illustrious.service import Asker, Studio


def studio_of(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


def asker_of(request: Request) -> Asker:
    """Who asks: by API key where one is sent, else by address. Also their ``Idempotency-Key``, and the call's name."""
    key = sent_key(request.headers)
    owner = f"key {key_digest(key)[:16]}" if key else request.client.host if request.client else "local"
    idempotency_key = request.headers.get("idempotency-key")
    if idempotency_key is not None and not 0 < len(idempotency_key) <= 255:
        raise InvalidRequest("An Idempotency-Key has 1 to 255 characters.", field="Idempotency-Key")
    return Asker(owner=owner, idempotency_key=idempotency_key, request_id=request.state.request_id)


TheAsker = Annotated[Asker, Depends(asker_of)]
TheStudio = Annotated[Studio, Depends(studio_of)]


def tell(job: Job, request: Request, response: Response) -> None:
    """The job's id goes into the answer, an error too."""
    request.state.job_id = response.headers["X-Job-Id"] = job.id
