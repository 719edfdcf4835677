"""Several analyzers as one: the first that can answer does."""

import pytest

from illustrious.chat import ChatOptions
from illustrious.errors import EngineFailed, Unavailable
from illustrious.types import AnalysisRequest
from illustrious.vision.chat import ChatAnalyzer
from illustrious.vision.palette import PaletteAnalyzer
from illustrious.vision.preferred import PreferredAnalyzer
from tests.vision.drawings import clock, encoded
from tests.vision.seeing import SeeingChat

REQUEST = AnalysisRequest(image=encoded(clock()))


@pytest.fixture
def backend() -> SeeingChat:
    return SeeingChat(ChatOptions(vision=True))


@pytest.fixture
def both(backend: SeeingChat) -> PreferredAnalyzer:
    return PreferredAnalyzer([ChatAnalyzer(backend), PaletteAnalyzer()])


async def test_the_first_that_is_there_answers(both: PreferredAnalyzer) -> None:
    assert both.status().name == "seeing"
    assert (await both.analyze(REQUEST)).model == "eyes-7b"


async def test_the_next_answers_while_the_first_is_away_and_only_then(
    both: PreferredAnalyzer, backend: SeeingChat
) -> None:
    there = backend.state
    backend.state = there.model_copy(update={"available": False, "reason": "Start it."})
    assert both.status().name == "palette"
    assert (await both.analyze(REQUEST)).model == "palette"
    assert [status.reason for status in both.statuses()] == ["Start it.", None]
    backend.state = there
    assert (await both.analyze(REQUEST)).model == "eyes-7b"


async def test_one_that_turns_out_to_be_away_is_passed_over(both: PreferredAnalyzer, backend: SeeingChat) -> None:
    backend.raises = Unavailable("The server went away; start it.")
    assert (await both.analyze(REQUEST)).model == "palette"


async def test_one_that_fails_is_not_passed_over(both: PreferredAnalyzer, backend: SeeingChat) -> None:
    backend.raises = EngineFailed("The model broke down; ask again.")
    with pytest.raises(EngineFailed, match="broke down"):
        await both.analyze(REQUEST)


async def test_when_none_can_answer_every_reason_is_told(backend: SeeingChat) -> None:
    blind = ChatAnalyzer(SeeingChat(ChatOptions(vision=False)))
    backend.state = backend.state.model_copy(update={"available": False, "reason": "Start it."})
    neither = PreferredAnalyzer([ChatAnalyzer(backend), blind])
    status = neither.status()
    assert not status.available
    assert "Start it." in (status.reason or "")
    assert "cannot see" in (status.reason or "")
    with pytest.raises(Unavailable, match=r"Start it\. .*cannot see"):
        await neither.analyze(REQUEST)


async def test_all_are_started_refreshed_and_closed(both: PreferredAnalyzer, backend: SeeingChat) -> None:
    await both.start()
    await both.refresh()
    await both.close()
    assert backend.life == ["start", "refresh", "close"]
