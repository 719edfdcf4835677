"""Several analyzers as one: the first that can answer does."""

import asyncio
from collections.abc import Sequence

from illustrious.errors import Unavailable
from illustrious.types import Analysis, AnalysisRequest, BackendStatus
from illustrious.vision import Analyzer


class PreferredAnalyzer:
    """Analyzers in order of preference (a vision model, then the basic one). Itself an ``Analyzer`` to its users."""

    def __init__(self, analyzers: Sequence[Analyzer]) -> None:
        self._analyzers = tuple(analyzers)

    async def start(self) -> None:
        for analyzer in self._analyzers:
            await analyzer.start()

    def statuses(self) -> list[BackendStatus]:
        """Every analyzer's own, in order of preference: also why an earlier one does not answer."""
        return [analyzer.status() for analyzer in self._analyzers]

    def status(self) -> BackendStatus:
        """That of the analyzer that would answer now; when none would, why not, of all of them."""
        statuses = self.statuses()
        for status in statuses:
            if status.available:
                return status
        return BackendStatus(
            name=" or ".join(status.name for status in statuses) or "none",
            available=False,
            loading=any(status.loading for status in statuses),
            reason=_together([status.reason for status in statuses if status.reason]),
        )

    async def refresh(self) -> None:
        await asyncio.gather(*(analyzer.refresh() for analyzer in self._analyzers))

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        """The first analyzer's answer. One that turns out to be away is passed over; one that fails at this picture is
        not: its answer was asked for, and another's would pass for it."""
        reasons = []
        for analyzer in self._analyzers:
            status = analyzer.status()
            if not status.available and not status.loading:
                reasons.append(status.reason or f"{status.name} is not available.")
                continue
            try:
                return await analyzer.analyze(request)
            except Unavailable as error:
                reasons.append(str(error))
        raise Unavailable(_together(reasons))

    async def close(self) -> None:
        for analyzer in self._analyzers:
            await analyzer.close()


def _together(reasons: Sequence[str]) -> str:
    return " ".join(reasons) or "No analyzer is configured; connect Ollama with a vision model."
