"""The analyzer protocol: a picture and a question in, words out."""

from typing import Protocol

from illustrious.types import Analysis, AnalysisRequest, BackendStatus


class Analyzer(Protocol):
    async def start(self) -> None:
        """Begin whatever must be begun. Returns at once; never raises."""

    def status(self) -> BackendStatus:
        """What is known now, without asking anybody."""

    async def refresh(self) -> None:
        """Look again whether the backend is there."""

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        """Answer. Raises ``Unavailable`` when no model can and ``EngineFailed`` when one fails at it."""

    async def close(self) -> None:
        """End what ``start`` began; no process is left."""
