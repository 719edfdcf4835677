"""What Prometheus is told."""

from prometheus_client.parser import text_string_to_metric_families

from illustrious.jobs import Failure, Job
from illustrious.metrics import Metrics
from illustrious.types import WorkerProcess

JOB = Job(
    id="1",
    kind="image",
    state="succeeded",
    request={},
    owner="me",
    priority="batch",
    created=10,
    started=13,
    finished=20,
)
WORKER = WorkerProcess(
    id="image-0", kind="image", pid=1, device="cpu", state="idle", model="m", rss=5, vram=6, restarts=7
)


def samples(metrics: Metrics) -> dict[str, float]:
    text = metrics.exposition(3, [WORKER]).decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_ends_waits_runs_failures_and_steps_are_counted() -> None:
    metrics = Metrics()
    metrics.changed(JOB)
    metrics.changed(JOB.model_copy(update={"state": "running"}))
    failure = Failure(kind="EngineFailed", message="no")
    metrics.changed(JOB.model_copy(update={"state": "failed", "error": failure}))
    metrics.stepped()
    found = samples(metrics)
    assert found["illustrious_jobs_ended_total succeeded"] == 1
    assert found["illustrious_jobs_ended_total failed"] == 1
    assert found["illustrious_job_failures_total EngineFailed"] == 1
    assert found["illustrious_job_wait_seconds_sum"] == 6
    assert found["illustrious_job_run_seconds_sum"] == 14
    assert found["illustrious_steps_total"] == 1


def test_queue_memory_and_restarts_are_those_of_the_moment() -> None:
    found = samples(Metrics())
    assert found["illustrious_queue_depth"] == 3
    assert found["illustrious_resident_bytes image-0"] == 5
    assert found["illustrious_resident_bytes server"] > 1_000_000
    assert found["illustrious_gpu_bytes image-0"] == 6
    assert found["illustrious_worker_restarts_total image-0"] == 7
