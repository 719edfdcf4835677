"""The log of what was done: one line of JSON for every job that is over, tied to the request that asked for it."""

import json
import logging

from illustrious.jobs import Job

log = logging.getLogger("illustrious.jobs.journal")


class Journal:
    """Prompts are left out unless ``prompts`` asks for them: they are people's own."""

    def __init__(self, prompts: bool = False) -> None:
        self._prompts = prompts

    def changed(self, job: Job) -> None:
        """A job's state was committed; the line is written at its end."""
        if not job.is_over:
            return
        line = {
            "job": job.id,
            "request_id": job.request_id,
            "owner": job.owner,
            "kind": job.kind,
            "state": job.state,
            "attempts": job.attempts,
            "wait_s": _between(job.created, job.started),
            "run_s": _between(job.started, job.finished),
            "error": job.error.kind if job.error else None,
            "warnings": len(job.warnings),
        }
        if self._prompts:
            line["prompt"] = job.request.get("prompt")
        log.info(json.dumps(line, ensure_ascii=False))


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(max(0.0, end - begin), 3)
