"""What every analyzer must do, whichever it is. A new one only needs a builder here."""

import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from illustrious.chat import ChatOptions
from illustrious.errors import InvalidRequest, TooLarge
from illustrious.registry import implementations
from illustrious.types import AnalysisRequest
from illustrious.vision import Analyzer, VisionOptions
from illustrious.vision.chat import ChatAnalyzer
from illustrious.vision.palette import PaletteAnalyzer
from illustrious.vision.preferred import PreferredAnalyzer
from illustrious.vision.starter import StarterAnalyzer
from tests.vision.drawings import encoded, plain
from tests.vision.seeing import SeeingChat

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one loaded classifier serves all tests

OPTIONS = VisionOptions(max_pixels=1_000_000)

BUILDERS: dict[str, Callable[[], Analyzer]] = {
    "chat": lambda: ChatAnalyzer(SeeingChat(ChatOptions(vision=True)), OPTIONS),
    "palette": lambda: PaletteAnalyzer(OPTIONS),
    "starter": lambda: StarterAnalyzer(OPTIONS),
}
COMBINED = {"preferred": lambda: PreferredAnalyzer([build() for build in BUILDERS.values()])}


async def test_every_analyzer_is_under_this_contract() -> None:
    assert set(BUILDERS) == set(implementations("illustrious.vision"))


@pytest_asyncio.fixture(params=sorted(BUILDERS | COMBINED), scope="module", loop_scope="module")
async def analyzer(request: pytest.FixtureRequest) -> AsyncIterator[Analyzer]:
    before = set(psutil.Process().children(recursive=True))
    analyzer: Analyzer = (BUILDERS | COMBINED)[request.param]()
    await analyzer.start()
    await analyzer.refresh()
    yield analyzer
    await analyzer.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert left == set(), "a process was left behind"


async def described(analyzer: Analyzer, picture: Image.Image, format: str = "PNG", **how: object) -> str:
    analysis = await analyzer.analyze(AnalysisRequest(image=encoded(picture, format, **how)))
    assert analysis.text.strip() == analysis.text != ""
    assert analysis.model
    return analysis.text


async def test_different_pictures_give_different_words(analyzer: Analyzer) -> None:
    red, blue = await described(analyzer, plain("red")), await described(analyzer, plain("blue"))
    assert red != blue


async def test_the_same_picture_gives_the_same_words(analyzer: Analyzer) -> None:
    assert await described(analyzer, plain("red")) == await described(analyzer, plain("red"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_every_format_is_looked_at(analyzer: Analyzer, format: str) -> None:
    red, blue = [await described(analyzer, plain(colour), format) for colour in ("red", "blue")]
    assert red != blue


async def test_a_portrait_stored_lying_down_is_a_portrait(analyzer: Analyzer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "landscape" in await described(analyzer, plain("red"), "JPEG")
    text = await described(analyzer, plain("red"), "JPEG", exif=exif)
    assert "portrait" in text
    assert "landscape" not in text


async def test_any_kind_of_pixels_will_do(analyzer: Analyzer) -> None:
    for mode in ("1", "L", "LA", "P", "RGBA"):
        await described(analyzer, plain("red").convert(mode))
    await described(analyzer, Image.new("RGB", (1, 1)))


async def test_what_is_no_picture_is_the_senders_mistake(analyzer: Analyzer) -> None:
    for data in (b"", b"hello", encoded(plain("red"))[:60]):
        with pytest.raises(InvalidRequest):
            await analyzer.analyze(AnalysisRequest(image=data))


async def test_a_picture_over_the_limit_is_refused(analyzer: Analyzer) -> None:
    with pytest.raises(TooLarge):
        await analyzer.analyze(AnalysisRequest(image=encoded(plain("red", 1001, 1000))))


async def test_status_is_known_and_not_asked_for(analyzer: Analyzer) -> None:
    assert analyzer.status().available
    start = time.perf_counter()
    for _ in range(100):
        analyzer.status()
    assert time.perf_counter() - start < 0.5  # a hundredth of that is what it takes
