"""The analyzer protocol: a picture and a question in, words out."""

from typing import Protocol

from illustrious.types import Analysis, AnalysisRequest, BackendStatus, Noun


class VisionOptions(Noun):
    """What every analyzer may be told; each takes what concerns it.

    ``max_pixels`` bounds the pictures it opens; ``threads`` the processor threads of an embedded model; after
    ``idle_seconds`` without a picture an embedded model is put out of memory.
    """

    max_pixels: int = 50_000_000
    threads: int | None = None
    idle_seconds: float = 300.0


DEFAULTS = VisionOptions()


class Analyzer(Protocol):
    """Made from ``VisionOptions``; one that looks through something else (a chat backend, other analyzers) is handed
    that something first, and starts, refreshes and closes it as its own."""

    async def start(self) -> None:
        """Begin whatever must be begun. Returns at once; never raises."""

    def status(self) -> BackendStatus:
        """What is known now, without asking anybody."""

    async def refresh(self) -> None:
        """Look again whether the backend is there."""

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        """Answer. Raises ``Unavailable`` when no model can, ``EngineFailed`` when one fails at it, and
        ``InvalidRequest`` or ``TooLarge`` for a picture that cannot be opened."""

    async def close(self) -> None:
        """End what ``start`` began; no process is left."""
