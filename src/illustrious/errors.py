"""The one error tree.

Everything the studio raises on purpose is a :class:`StudioError`. Its text is a sentence for a person, and where the
person can do something about it, that something is in the sentence. The edges (``api/errors.py``, ``cli.py``) turn
these into status codes and exit codes; foreign errors become one of these where they enter.
"""


class StudioError(Exception):
    """Anything the studio reports to its user."""


class InvalidRequest(StudioError):
    """The request cannot be served as asked; ``field`` names the part that is wrong."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class TooLarge(StudioError):
    """The request is larger than the studio accepts (bytes or pixels)."""


class NotFound(StudioError):
    """No such thing here."""


class Unavailable(StudioError):
    """The model that would serve this is not there. The text is the reason and the remedy."""


class EngineFailed(StudioError):
    """A model that is there failed at this one request."""


class Cancelled(StudioError):
    """The request was withdrawn before it was done."""


class StorageFailed(StudioError):
    """The data folder or the database could not be read or written."""


class CannotStart(StudioError):
    """The studio refuses to start; the text says why and what to do."""


class QueueFull(StudioError):
    """No more jobs are taken now; ``retry_after`` is when to come back, in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WorkerDied(StudioError):
    """The worker process ended under the job."""
