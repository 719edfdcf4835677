"""A chat backend that can see, as an analyzer."""

import io

import pytest
from PIL import Image

from illustrious.chat import ChatOptions
from illustrious.errors import EngineFailed, InvalidRequest, StudioError, Unavailable
from illustrious.types import AnalysisRequest
from illustrious.vision.chat import ChatAnalyzer
from tests.vision.drawings import clock, encoded, plain
from tests.vision.seeing import SeeingChat

QUESTION = "How late is it?"


@pytest.fixture
def backend() -> SeeingChat:
    return SeeingChat(ChatOptions(vision=True))


def asked(picture: Image.Image, format: str = "PNG", **how: object) -> AnalysisRequest:
    return AnalysisRequest(image=encoded(picture, format, **how), question=QUESTION)


def sent(backend: SeeingChat) -> Image.Image:
    return Image.open(io.BytesIO(backend.asked[-1].messages[-1].images[0]))


async def test_the_question_goes_with_the_picture_and_a_cool_head(backend: SeeingChat) -> None:
    backend.says = "Five to four."
    analysis = await ChatAnalyzer(backend).analyze(asked(clock()))
    assert (analysis.text, analysis.model) == ("Five to four.", "eyes-7b")
    (request,) = backend.asked
    assert [(message.role, message.content) for message in request.messages] == [("user", QUESTION)]
    assert request.temperature <= 0.3


async def test_a_large_picture_is_reduced_and_keeps_its_shape(backend: SeeingChat) -> None:
    await ChatAnalyzer(backend).analyze(asked(plain("red", 4000, 3000)))
    assert sent(backend).format == "JPEG"
    assert sent(backend).size == (1536, 1152)


async def test_a_small_picture_is_sent_without_loss(backend: SeeingChat) -> None:
    await ChatAnalyzer(backend).analyze(asked(clock(), "WEBP", lossless=True))
    assert sent(backend).format == "PNG"
    assert sent(backend).tobytes() == clock().tobytes()


async def test_the_picture_is_upright_rgb_and_says_nothing_about_itself(backend: SeeingChat) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "My camera"
    await ChatAnalyzer(backend).analyze(asked(plain("red").convert("L"), "JPEG", exif=exif, comment=b"at home"))
    assert (sent(backend).size, sent(backend).mode) == ((64, 96), "RGB")
    data = backend.asked[-1].messages[-1].images[0]
    assert b"My camera" not in data
    assert b"at home" not in data


async def test_a_model_that_cannot_see_is_not_available(backend: SeeingChat) -> None:
    analyzer = ChatAnalyzer(SeeingChat(ChatOptions(vision=False)))
    assert not analyzer.status().available
    assert "choose a vision model" in (analyzer.status().reason or "")
    with pytest.raises(Unavailable, match="choose a vision model"):
        await analyzer.analyze(asked(clock()))
    assert backend.asked == []


async def test_a_backend_that_is_away_says_why(backend: SeeingChat) -> None:
    backend.state = backend.state.model_copy(update={"available": False, "reason": "Start Ollama."})
    assert ChatAnalyzer(backend).status() == backend.state
    with pytest.raises(Unavailable, match=r"Start Ollama\."):
        await ChatAnalyzer(backend).analyze(asked(clock()))


async def test_a_question_waits_for_a_model_that_is_loading(backend: SeeingChat) -> None:
    loaded = backend.state
    backend.state = loaded.model_copy(update={"available": False, "loading": True, "vision": False})
    answer = backend.chat

    def load_first(request: object) -> object:
        backend.state = loaded
        return answer(request)  # type: ignore[arg-type]

    backend.chat = load_first  # type: ignore[method-assign, assignment]
    assert (await ChatAnalyzer(backend).analyze(asked(clock()))).model == "eyes-7b"


async def test_what_a_model_says_that_turns_out_blind_is_not_passed_on(backend: SeeingChat) -> None:
    loaded = backend.state.model_copy(update={"vision": False})
    backend.state = loaded.model_copy(update={"available": False, "loading": True})
    answer = backend.chat

    def load_first(request: object) -> object:
        backend.state = loaded
        return answer(request)  # type: ignore[arg-type]

    backend.chat = load_first  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable, match="cannot see"):
        await ChatAnalyzer(backend).analyze(asked(clock()))


@pytest.mark.parametrize("error", [Unavailable("gone"), EngineFailed("broken"), InvalidRequest("too long")])
async def test_the_backends_errors_are_the_analyzers(backend: SeeingChat, error: StudioError) -> None:
    backend.raises = error
    with pytest.raises(type(error), match=str(error)):
        await ChatAnalyzer(backend).analyze(asked(clock()))


async def test_an_empty_answer_is_a_failure(backend: SeeingChat) -> None:
    backend.says = " \n"
    with pytest.raises(EngineFailed, match="ask again"):
        await ChatAnalyzer(backend).analyze(asked(clock()))


async def test_the_backend_lives_as_long_as_the_analyzer(backend: SeeingChat) -> None:
    analyzer = ChatAnalyzer(backend)
    await analyzer.start()
    await analyzer.refresh()
    await analyzer.close()
    assert backend.life == ["start", "refresh", "close"]
