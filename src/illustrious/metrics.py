"""What is measured, for Prometheus. Names and units follow its conventions: base units, ``_total`` for counters."""

from collections.abc import Iterable

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from illustrious.jobs import Job
from illustrious.types import WorkerProcess

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Histogram bounds: from the starter's pictures to large ones on a processor."""


class Metrics:
    """One server's figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._depth = Gauge("illustrious_queue_depth", "Jobs that wait", registry=self.registry)
        self._wait = Histogram(
            "illustrious_job_wait_seconds", "From submission to the last begin", buckets=SECONDS, registry=self.registry
        )
        self._run = Histogram(
            "illustrious_job_run_seconds", "From the last begin to the end", buckets=SECONDS, registry=self.registry
        )
        self._ended = Counter("illustrious_jobs_ended", "Jobs that are over", ["state"], registry=self.registry)
        self._failed = Counter("illustrious_job_failures", "Failed jobs", ["kind"], registry=self.registry)
        self._steps = Counter("illustrious_steps", "Denoising steps done", registry=self.registry)
        self._processes = _Processes()
        self.registry.register(self._processes)

    def stepped(self) -> None:
        self._steps.inc()

    def changed(self, job: Job) -> None:
        """A job's state was committed."""
        if not job.is_over:
            return
        self._ended.labels(job.state).inc()
        if job.error is not None:
            self._failed.labels(job.error.kind).inc()
        if job.started is not None and job.finished is not None:
            self._wait.observe(max(0.0, job.started - job.created))
            self._run.observe(max(0.0, job.finished - job.started))

    def exposition(self, depth: int, processes: list[WorkerProcess]) -> bytes:
        """All figures in Prometheus' text format, with how many jobs wait and which processes run at this moment."""
        self._depth.set(depth)
        self._processes.now = processes
        return generate_latest(self.registry)


class _Processes:
    """The child processes as they are at the moment of asking."""

    def __init__(self) -> None:
        self.now: list[WorkerProcess] = []
        self._server = psutil.Process()

    def collect(self) -> Iterable[Metric]:
        resident = GaugeMetricFamily("illustrious_resident_bytes", "Main memory", labels=["process"])
        resident.add_metric(["server"], self._server.memory_info().rss)
        video = GaugeMetricFamily("illustrious_gpu_bytes", "Memory of the GPU", labels=["process"])
        restarts = CounterMetricFamily("illustrious_worker_restarts", "Worker deaths", labels=["process"])
        for process in self.now:
            resident.add_metric([process.id], process.rss)
            if process.kind == "image":
                video.add_metric([process.id], process.vram)
                restarts.add_metric([process.id], process.restarts)
        return (resident, video, restarts)
