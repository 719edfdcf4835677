"""Jobs over HTTP, on the fakes: submit, look, follow, cancel; the same job however it was asked for."""

import asyncio
import base64
import io
import json
import os
import signal
from typing import Any, NoReturn

import httpx
import pytest
from PIL import Image

from illustrious.api.sse import stream
from illustrious.app import create_app
from illustrious.errors import InvalidRequest, Unavailable
from illustrious.service import Studio
from illustrious.settings import Settings

APPLE = {"prompt": "a red apple", "seed": 7, "steps": 20}
LONG = {"prompt": "x", "steps": 150, "width": 512, "height": 512}


async def over(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """The job once it is over, by following its events."""
    async with http.stream("GET", f"/jobs/{job_id}/events") as stream:
        async for _ in stream.aiter_lines():
            pass
    body: dict[str, Any] = (await http.get(f"/jobs/{job_id}")).json()
    return body


async def test_a_job_is_taken_in_at_once_and_ends_in_a_picture(http: httpx.AsyncClient) -> None:
    answer = await http.post("/jobs", json={**APPLE, "colour": "red"})
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"id", "state", "position", "warnings"}
    assert answer.headers["location"] == f"/jobs/{body['id']}"
    assert answer.headers["x-job-id"] == body["id"]
    assert body["warnings"] == ["Unknown field 'colour' was ignored."]
    done = await over(http, body["id"])
    assert (done["state"], done["attempts"], done["error"]) == ("succeeded", 1, None)
    assert (done["progress"]["step"], done["progress"]["steps"]) == (20, 20)
    (image,) = done["result"]["images"]
    assert image["seed"] == 7
    picture = await http.get(image["url"])
    again = await http.post("/generate-image", json={**APPLE, "guidance": 5.0})  # the starter model's profile
    assert base64.b64decode(again.json()["image_base64"]) == picture.content


async def test_a_job_says_how_fast_it_was_drawn_and_what_contradicts_itself_is_422(http: httpx.AsyncClient) -> None:
    body = (await http.post("/jobs", json={**APPLE, "speed": "fast"})).json()
    done = await over(http, body["id"])
    assert (done["request"]["speed"], done["request"]["exact"]) == ("fast", False)
    (image,) = done["result"]["images"]
    assert (await http.get(f"/gallery/{image['id']}")).json()["parameters"]["speed"] == "fast"
    assert (await http.post("/generate-image", json={**APPLE, "speed": "fast"})).json()["speed"] == "fast"
    assert (await http.post("/generate-image", json={**APPLE, "exact": False})).json()["speed"] == "balanced"
    refused = await http.post("/jobs", json={**APPLE, "speed": "fast", "exact": True})
    assert refused.status_code == 422
    assert "leave exact out" in refused.text


async def test_a_job_of_several_pictures_draws_them_from_one_seed_after_the_other(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/generate-image", json={**APPLE, "count": 3})).json()
    assert [image["seed"] for image in answer["images"]] == [7, 8, 9]
    assert answer["images"][0]["url"] == answer["image_url"]
    pictures = [(await http.get(image["url"])).content for image in answer["images"]]
    assert base64.b64decode(answer["image_base64"]) == pictures[0]
    alone = (await http.post("/generate-image", json={**APPLE, "seed": 9})).json()
    assert base64.b64decode(alone["image_base64"]) == pictures[2]


async def test_every_answer_that_generates_names_its_job(http: httpx.AsyncClient) -> None:
    for path, body in (("/generate-image", APPLE), ("/chat", {"message": "#generate a cat"})):
        answer = await http.post(path, json=body)
        job = (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()
        assert job["state"] == "succeeded"
    assert "x-job-id" not in (await http.post("/chat", json={"message": "hello"})).headers


async def test_the_seed_is_drawn_when_the_job_is_taken_in(http: httpx.AsyncClient) -> None:
    job_id = (await http.post("/jobs", json={"prompt": "x"})).json()["id"]
    seed = (await http.get(f"/jobs/{job_id}")).json()["request"]["seed"]
    assert seed >= 0
    assert (await over(http, job_id))["result"]["images"][0]["seed"] == seed


@pytest.mark.parametrize("path", ["/jobs", "/generate-image"])
async def test_the_same_key_and_body_give_the_same_job(http: httpx.AsyncClient, path: str) -> None:
    key = {"Idempotency-Key": "one"}
    body = {"prompt": "x"}  # a random seed, and yet the same picture
    first, second = [await http.post(path, json=body, headers=key) for _ in range(2)]
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    if path == "/generate-image":
        assert first.json() == second.json()
    other = await http.post(path, json={"prompt": "y"}, headers=key)
    assert other.status_code == 422
    assert other.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    for owner in ("somebody", "somebody else"):
        theirs = await http.post(path, json=body, headers={**key, "X-API-Key": owner})
        assert theirs.headers["x-job-id"] != first.headers["x-job-id"]


async def test_a_drawing_in_a_chat_understands_keys_too(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "one"}
    first, second = [await http.post("/chat", json={"message": "#generate a cat"}, headers=key) for _ in range(2)]
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert first.json() == second.json()
    assert (await http.post("/chat", json={"message": "#generate a dog"}, headers=key)).status_code == 422


async def test_the_events_tell_the_whole_story_and_go_on_where_they_were_left(http: httpx.AsyncClient) -> None:
    job_id = (await http.post("/jobs", json=APPLE)).json()["id"]
    events = []
    async with http.stream("GET", f"/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = parse("\n".join([line async for line in stream.aiter_lines()]))
    names = [event["event"] for event in events]
    assert names[0] == "state" and names[-2:] == ["result", "state"]
    assert "step" in names
    assert events[-1]["data"]["state"] == "succeeded"
    assert events[-2]["data"]["images"][0]["seed"] == 7
    middle = events[-3]["id"]
    rest = await http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": middle})
    assert parse(rest.text) == events[-2:]
    assert (await http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})).status_code == 422


def parse(text: str) -> list[dict[str, Any]]:
    blocks = [block for block in text.split("\n\n") if block.strip() and not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block.strip().split("\n")) for block in blocks]
    return [{**event, "data": json.loads(event["data"])} for event in fields]


async def test_previews_come_as_base64_while_it_is_drawn(http: httpx.AsyncClient) -> None:
    job_id = (await http.post("/jobs", json=LONG)).json()["id"]
    events = parse((await http.get(f"/jobs/{job_id}/events")).text)
    previews = [base64.b64decode(event["data"]["image"]) for event in events if event["event"] == "preview"]
    assert previews
    assert {Image.open(io.BytesIO(preview)).format for preview in previews} == {"WEBP"}


async def test_a_silent_stream_shows_that_it_lives() -> None:
    async def silent() -> Any:
        await asyncio.Event().wait()
        yield

    wire = stream(silent(), ping=0.01)
    assert (await anext(wire)).startswith(b":")
    await wire.aclose()  # type: ignore[attr-defined]


async def test_a_job_that_waits_is_cancelled_and_never_drawn(http: httpx.AsyncClient, studio: Studio) -> None:
    ids = [(await http.post("/jobs", json={**LONG, "seed": seed})).json()["id"] for seed in range(5)]
    last = (await http.delete(f"/jobs/{ids[-1]}")).json()
    assert (last["state"], last["attempts"]) == ("cancelled", 0)
    for job_id in ids[:-1]:
        await http.delete(f"/jobs/{job_id}")
        assert (await over(http, job_id))["state"] == "cancelled"
    assert (await http.get("/gallery")).json()["items"] == []
    assert (await http.post("/generate-image", json=APPLE)).status_code == 200


async def test_a_cancelled_job_can_be_submitted_again(http: httpx.AsyncClient) -> None:
    job_id = (await http.post("/jobs", json=LONG)).json()["id"]
    await http.delete(f"/jobs/{job_id}")
    again = (await http.post(f"/jobs/{job_id}/resubmit")).json()
    done = await over(http, again["id"])
    assert (done["state"], done["parent"]) == ("succeeded", job_id)


async def test_lists_are_newest_first_by_state_and_in_pages(http: httpx.AsyncClient) -> None:
    ids = [(await http.post("/generate-image", json={**APPLE, "seed": n})).headers["x-job-id"] for n in range(3)]
    page = (await http.get("/jobs", params={"state": "succeeded", "limit": 2})).json()
    assert [job["id"] for job in page["items"]] == [ids[2], ids[1]]
    rest = (await http.get("/jobs", params={"state": "succeeded", "limit": 2, "cursor": page["next"]})).json()
    assert [job["id"] for job in rest["items"]] == [ids[0]]
    assert rest["next"] is None
    assert (await http.get("/jobs", params={"state": "failed"})).json()["items"] == []


async def test_a_full_queue_says_when_to_come_back(settings: Settings, studio: Studio, http: httpx.AsyncClient) -> None:
    studio.runner._queue_limit = 2
    answers = await asyncio.gather(*(http.post("/jobs", json={**LONG, "seed": seed}) for seed in range(12)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {202, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    for answer in answers:
        if answer.status_code == 202:
            assert (await over(http, answer.json()["id"]))["state"] == "succeeded"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
async def test_whoever_waits_gets_the_same_picture_although_the_worker_is_killed(
    http: httpx.AsyncClient, studio: Studio
) -> None:
    undisturbed = (await http.post("/generate-image", json={**LONG, "steps": 100, "seed": 5})).json()
    pid = studio.workers[0].pid
    waiting = asyncio.create_task(http.post("/generate-image", json={**LONG, "steps": 100, "seed": 5}))
    async with asyncio.timeout(10):
        while studio.workers[0].state != "drawing":
            await asyncio.sleep(0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    answer = await waiting
    assert answer.json()["image_base64"] == undisturbed["image_base64"]
    job = (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()
    assert (job["state"], job["attempts"]) == ("succeeded", 2)
    assert len((await http.get("/gallery")).json()["items"]) == 2


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
async def test_what_an_engine_finds_wrong_is_named_in_the_answer_and_in_the_job(
    http: httpx.AsyncClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def draw(*asked: object) -> NoReturn:
        raise InvalidRequest("The LoRA sketch is damaged. Download it again.", field="loras")

    monkeypatch.setattr(studio.workers[0], "draw", draw)
    answer = await http.post("/generate-image", json=APPLE)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "loras"])
    job = (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()
    words = "The LoRA sketch is damaged. Download it again."
    assert job["error"] == {"kind": "InvalidRequest", "message": words, "field": "loras"}


async def test_a_job_that_ends_its_worker_three_times_is_failed_kept_and_can_be_submitted_again(
    http: httpx.AsyncClient, studio: Studio
) -> None:
    worker, killed = studio.workers[0], set()
    asking = asyncio.create_task(http.post("/generate-image", json={**LONG, "steps": 100}))
    while not asking.done():
        if worker.state == "drawing" and worker.pid not in killed:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            killed.add(worker.pid)
        await asyncio.sleep(0)
    answer = await asking
    assert (answer.status_code, len(killed)) == (500, 3)
    assert "ended its worker 3 times" in answer.json()["detail"]
    job = (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()
    assert (job["state"], job["attempts"], job["error"]["kind"]) == ("failed", 3, "WorkerDied")
    assert (await http.post("/generate-image", json=APPLE)).status_code == 200, "others are not harmed"
    again = (await http.post(f"/jobs/{job['id']}/resubmit")).json()
    assert (await over(http, again["id"]))["state"] == "succeeded"


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("cancel", "state"), [(b"true", "cancelled"), (b"false", "succeeded")])
async def test_who_hangs_up_stops_the_job_only_if_he_said_so(
    settings: Settings, studio: Studio, http: httpx.AsyncClient, cancel: bytes, state: str, at_once: bool
) -> None:
    """However early: a job that is only being taken in at that moment is stopped too."""
    await http.post("/generate-image", json=APPLE)
    worker = studio.workers[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)  # so that no picture is ready before its caller has hung up
    try:
        asking = asyncio.create_task(ask_and_hang_up(create_app(settings, studio), cancel, at_once))
        async with asyncio.timeout(20):
            while not asking.done() and (state == "cancelled" or worker.state != "drawing"):
                await asyncio.sleep(0)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    async with asyncio.timeout(20):
        await asking
    newest, _ = await studio.runner.store.page()
    assert (await studio.runner.wait(newest.id)).state == state


async def ask_and_hang_up(app: Any, cancel: bytes, at_once: bool) -> None:
    """Send a request by hand, and hang up: right behind it, or once its picture is being drawn."""
    sent = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not sent.is_set():
            sent.set()
            return {"type": "http.request", "body": json.dumps(APPLE).encode(), "more_body": False}
        while not at_once and app.state.studio.workers[0].state != "drawing":
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"x-cancel-on-disconnect", cancel),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/generate-image",
        "raw_path": b"/generate-image",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "root_path": "",
    }
    await app(scope, receive, send)


async def test_workers_are_listed(http: httpx.AsyncClient) -> None:
    await http.post("/generate-image", json=APPLE)
    listed = (await http.get("/workers")).json()["workers"]
    assert [worker["kind"] for worker in listed] == ["image", "chat", "vision"]
    image = listed[0]
    assert {"id", "kind", "pid", "device", "state", "model", "rss"} <= set(image)
    assert (image["state"], image["model"]) == ("idle", "fake")
    os.kill(image["pid"], 0)


async def test_what_is_loading_is_told_until_it_is_ready(http: httpx.AsyncClient, studio: Studio) -> None:
    assert (await http.get("/health/live")).status_code == 200
    await studio.workers[0].start()
    loading = await http.get("/health/ready")
    assert (loading.status_code, "image (0%)" in loading.text) == (503, True)
    listed = (await http.get("/workers")).json()["workers"][0]
    assert (listed["state"], listed["progress"]) == ("loading", 0.0)
    await studio.workers[0].wait_until_loaded()
    assert (await http.get("/health/ready")).status_code == 200
    listed = (await http.get("/workers")).json()["workers"][0]
    assert (listed["state"], listed["progress"]) == ("idle", None)


async def test_a_model_that_will_never_load_refuses_jobs_with_the_reason(
    http: httpx.AsyncClient, studio: Studio
) -> None:
    studio.workers[0]._give_up("No such file.")
    for path in ("/jobs", "/generate-image"):
        answer = await http.post(path, json=APPLE)
        assert answer.status_code == 503
        assert "No such file." in answer.json()["detail"]
    assert (await http.get("/jobs")).json()["items"] == []
    with pytest.raises(Unavailable):
        await studio.workers[0].wait_until_loaded()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_job_is_404(http: httpx.AsyncClient, method: str) -> None:
    assert (await http.request(method, "/jobs/nothing")).status_code == 404
    assert (await http.get("/jobs/nothing/events")).status_code == 404
