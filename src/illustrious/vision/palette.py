"""An analyzer without a model, for tests and for work on the user interface: size, colours, and the question again."""

import asyncio

from illustrious.pictures import open_picture, to_rgb
from illustrious.registry import registered
from illustrious.types import Analysis, AnalysisRequest, BackendStatus
from illustrious.vision import DEFAULTS, VisionOptions
from illustrious.vision.facts import dominant_colours, orientation


@registered("palette")
class PaletteAnalyzer:
    """Takes both fields seriously: another picture or another question gives other words."""

    def __init__(self, options: VisionOptions = DEFAULTS) -> None:
        self._options = options

    async def start(self) -> None: ...

    def status(self) -> BackendStatus:
        note = "names sizes and colours; for tests"
        return BackendStatus(name="palette", available=True, model="palette", device="cpu", note=note, vision=True)

    async def refresh(self) -> None: ...

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        return Analysis(text=await asyncio.to_thread(self._describe, request), model="palette")

    def _describe(self, request: AnalysisRequest) -> str:
        picture = to_rgb(open_picture(request.image, self._options.max_pixels))
        colours = ", ".join(colour.name for colour in dominant_colours(picture))
        shape = orientation(*picture.size)
        return f"{request.question}: {picture.width}×{picture.height} pixels, {shape}, {colours}."

    async def close(self) -> None: ...
