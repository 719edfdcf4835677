"""/metrics, and the name every request has."""

import httpx
import pytest

from illustrious.service import Studio


async def test_a_picture_shows_in_the_figures(http: httpx.AsyncClient) -> None:
    await http.post("/generate-image", json={"prompt": "x", "steps": 12})
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'illustrious_jobs_ended_total{state="succeeded"} 1.0' in lines
    assert "illustrious_steps_total 12.0" in lines
    assert "illustrious_queue_depth 0.0" in lines


async def test_every_answer_names_its_request(http: httpx.AsyncClient) -> None:
    given = await http.get("/status", headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = await http.get("/nowhere", headers={"X-Request-Id": "not\tgood"})
    assert len(made.headers["x-request-id"]) == 16


async def test_the_log_line_of_a_job_names_its_request(
    http: httpx.AsyncClient, studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "illustrious")
    answer = await http.post("/generate-image", json={"prompt": "x"}, headers={"X-Request-Id": "mine-2"})
    (line,) = [record.message for record in caplog.records if record.name == "illustrious.jobs.journal"]
    assert '"request_id": "mine-2"' in line
    assert answer.headers["x-job-id"] in line
    assert (await http.get(f"/jobs/{answer.headers['x-job-id']}")).json()["request_id"] == "mine-2"
