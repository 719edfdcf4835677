"""One line for every job, tied to its request."""

import json
import logging

import pytest

from illustrious.jobs import Job
from illustrious.journal import Journal

JOB = Job(
    id="j1",
    kind="image",
    state="succeeded",
    request={"prompt": "a secret"},
    owner="me",
    request_id="r1",
    priority="batch",
    attempts=1,
    created=10,
    started=13,
    finished=20.5,
)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(record.message) for record in caplog.records]


def test_a_job_that_is_over_is_one_line_with_its_request_and_without_its_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "illustrious")
    journal = Journal()
    journal.changed(JOB.model_copy(update={"state": "running"}))
    journal.changed(JOB)
    (line,) = lines(caplog)
    assert (line["job"], line["request_id"], line["state"]) == ("j1", "r1", "succeeded")
    assert (line["wait_s"], line["run_s"]) == (3, 7.5)
    assert "secret" not in caplog.text


def test_prompts_are_written_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "illustrious")
    Journal(prompts=True).changed(JOB)
    assert lines(caplog)[0]["prompt"] == "a secret"
