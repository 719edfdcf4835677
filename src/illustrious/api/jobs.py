"""Jobs: submit, look, follow, cancel. Every picture is one, whoever asked for it and how."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from illustrious.api import TheAsker, TheStudio, sse, tell
from illustrious.api.studio import ImageBody, JobImage, fingerprint, image_request
from illustrious.errors import InvalidRequest
from illustrious.jobs import Failure, Job, Priority, State
from illustrious.service import Studio
from illustrious.types import ImageRequest, Text, told

router = APIRouter(tags=["jobs"])


class JobBody(ImageBody):
    """As /generate-image takes it, with the wider ranges of the engine; what is left out is the model family's."""

    priority: Priority = Field("interactive", description="`batch` waits for all that is `interactive`.")


class Accepted(BaseModel):
    id: str
    state: State
    position: int | None = Field(description="How many jobs are before it, about; null once it has begun.")
    warnings: list[str] = []


class JobProgress(BaseModel):
    step: int = 0
    steps: int
    eta_s: float | None = Field(None, description="Seconds left, by the steps so far.")


class JobResult(BaseModel):
    images: list[JobImage]


class JobAnswer(BaseModel):
    id: str
    state: State
    attempts: int
    progress: JobProgress
    result: JobResult | None = None
    error: Failure | None = None
    warnings: list[str] = []
    position: int | None = None
    priority: Priority
    parent: str | None = Field(None, description="The job or picture this one repeats.")
    request_id: str | None = Field(None, description="The `X-Request-Id` of the call that asked for it.")
    request: dict[str, Any]
    created: float = Field(description="Seconds since 1970, UTC.")
    started: float | None = None
    finished: float | None = None


SHOWN_AS_STORED = {"id", "state", "attempts", "priority", "parent", "request_id", "created", "started", "finished"}


class JobPage(BaseModel):
    items: list[JobAnswer]
    next: str | None = Field(description="Give it as cursor to get the next page; null on the last.")


@router.post("/jobs", status_code=202)
async def submit(body: JobBody, request: Request, response: Response, asker: TheAsker, studio: TheStudio) -> Accepted:
    """Take a picture in and answer at once. With an `Idempotency-Key`, sending it again gives the same job."""
    asker = asker.model_copy(update={"priority": body.priority, "fingerprint": fingerprint(body)})
    job, _ = await studio.submit(image_request(body), asker)
    tell(job, request, response)
    return await accepted(studio, job, response, body.unknown_fields())


@router.get("/jobs")
async def jobs(
    studio: TheStudio,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[Text | None, Query(max_length=64)] = None,
) -> JobPage:
    """The newest first."""
    page = await studio.runner.store.page(state=state, limit=limit, cursor=cursor)
    items = [answer(studio, job) for job in page]
    return JobPage(items=items, next=page[-1].id if len(page) == limit else None)


@router.get("/jobs/{job_id}")
async def job(job_id: str, studio: TheStudio) -> JobAnswer:
    found = await studio.runner.store.get(job_id)
    position = await studio.runner.store.position(job_id) if found.state == "queued" else None
    return answer(studio, found, position)


@router.delete("/jobs/{job_id}")
async def cancel(job_id: str, studio: TheStudio) -> JobAnswer:
    """Withdraw it: one that waits is never drawn, one that is drawn stops at its next step, one that is over stays."""
    return answer(studio, await studio.cancel(job_id))


@router.post("/jobs/{job_id}/resubmit", status_code=202)
async def resubmit(job_id: str, request: Request, response: Response, asker: TheAsker, studio: TheStudio) -> Accepted:
    """The same request as a new job, for one that failed or was cancelled."""
    job = await studio.resubmit(job_id, asker)
    tell(job, request, response)
    return await accepted(studio, job, response, [])


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse)
async def events(
    job_id: str, request: Request, studio: TheStudio, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """`state`, `step`, `preview`, `result` and `error` as they happen, until the job is over. `Last-Event-ID` goes on
    from there with what is still known."""
    try:
        after = int(last_event_id) if last_event_id else None
    except ValueError as error:
        raise InvalidRequest("Last-Event-ID is the id of an event, a number.", field="Last-Event-ID") from error
    await studio.runner.store.get(job_id)  # 404 before the stream begins
    following = studio.runner.follow(job_id, after)
    return StreamingResponse(
        sse.stream(following), media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Job-Id": job_id}
    )


async def accepted(studio: Studio, job: Job, response: Response, warnings: list[str]) -> Accepted:
    response.headers["Location"] = f"/jobs/{job.id}"
    position = await studio.runner.store.position(job.id)
    return Accepted(id=job.id, state=job.state, position=position, warnings=[*warnings, *job.warnings])


def answer(studio: Studio, job: Job, position: int | None = None) -> JobAnswer:
    steps = job.request["steps"] * job.request["count"]
    step = studio.runner.events.latest(job.id, "step") if job.state == "running" else None
    progress = JobProgress(step=steps if job.state == "succeeded" else 0, steps=steps)
    if step is not None:
        progress = JobProgress(**step.data)
    return JobAnswer(
        **job.model_dump(include=SHOWN_AS_STORED),
        request=told(ImageRequest.model_validate(job.request)),
        progress=progress,
        result=JobResult.model_validate(job.result) if job.result else None,
        error=job.error,
        warnings=list(job.warnings),
        position=position,
    )
