"""What every image engine promises, whichever it is."""

import io
from collections import deque
from collections.abc import Iterator

import pytest
from PIL import Image

from illustrious.catalog.library import Library
from illustrious.errors import CannotStart
from illustrious.images import (
    Admit,
    Cancel,
    Command,
    Done,
    EngineOptions,
    Event,
    Failed,
    ImageEngine,
    Ready,
    Step,
    Stop,
)
from illustrious.registry import find, implementations
from illustrious.types import ImageRequest


class Script:
    """An inbox that has these commands already, and then ``Stop`` for whoever waits."""

    def __init__(self, *commands: Command) -> None:
        self.commands = deque(commands)

    def get(self, wait: bool) -> Command | None:
        if self.commands:
            return self.commands.popleft()
        return Stop() if wait else None


@pytest.fixture(params=sorted(implementations("illustrious.images")))
def engine(request: pytest.FixtureRequest) -> ImageEngine:
    return find("illustrious.images", request.param)(EngineOptions())


def picture(engine: ImageEngine, request: ImageRequest) -> bytes:
    events = list(engine.run(Script(Admit(job_id="one", request=request))))
    done = events[-1]
    assert isinstance(done, Done), done
    return Image.open(io.BytesIO(done.results[0].image)).tobytes()


REQUEST = ImageRequest(prompt="a red apple", steps=4, seed=7)


def test_a_request_is_checked_where_nothing_is_loaded(engine: ImageEngine) -> None:
    assert engine.check(REQUEST.model_copy(update={"model": "sdxl-starter"}), Library([])) == ()


def test_it_says_what_it_runs_on_then_every_step_then_the_picture(engine: ImageEngine) -> None:
    events = list(engine.run(Script(Admit(job_id="one", request=REQUEST))))
    assert any(isinstance(event, Ready) for event in events)
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4]
    assert isinstance(events[-1], Done)


def test_the_same_request_gives_the_same_pixels(engine: ImageEngine) -> None:
    assert picture(engine, REQUEST) == picture(engine, REQUEST)


@pytest.mark.parametrize(
    "change", [{"prompt": "a castle"}, {"negative_prompt": "blue"}, {"steps": 5}, {"guidance": 3.0}, {"seed": 8}]
)
def test_every_field_acts(engine: ImageEngine, change: dict[str, object]) -> None:
    assert picture(engine, REQUEST) != picture(engine, REQUEST.model_copy(update=change))


def test_it_draws_at_the_size_asked_for(engine: ImageEngine) -> None:
    request = REQUEST.model_copy(update={"width": 72, "height": 96})
    events = list(engine.run(Script(Admit(job_id="one", request=request))))
    done = events[-1]
    assert isinstance(done, Done)
    assert Image.open(io.BytesIO(done.results[0].image)).size == (72, 96)


def cancelled_at(engine: ImageEngine, step: int) -> Iterator[Event]:
    inbox = Script(Admit(job_id="one", request=REQUEST), Admit(job_id="two", request=REQUEST))
    for event in engine.run(inbox):
        yield event
        if isinstance(event, Step) and event.job_id == "one" and event.step == step:
            inbox.commands.append(Cancel(job_id="one"))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_cancelled_picture_takes_no_further_step_and_the_next_one_is_drawn(engine: ImageEngine, step: int) -> None:
    events = list(cancelled_at(engine, step))
    assert [event.step for event in events if isinstance(event, Step) and event.job_id == "one"][-1] == step
    assert [event.error for event in events if isinstance(event, Failed)] == ["cancelled"]
    assert [event.job_id for event in events if isinstance(event, Done)] == ["two"]


def test_a_waiting_picture_that_is_cancelled_is_never_drawn(engine: ImageEngine) -> None:
    inbox = Script(Admit(job_id="one", request=REQUEST), Admit(job_id="two", request=REQUEST), Cancel(job_id="two"))
    events = list(engine.run(inbox))
    assert not [event for event in events if isinstance(event, Step) and event.job_id == "two"]
    assert [event.job_id for event in events if isinstance(event, Done)] == ["one"]


def test_an_unknown_engine_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(CannotStart, match="fake"):
        find("illustrious.images", "dreams")
