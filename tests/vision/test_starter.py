"""Basic analysis: facts in sentences, in the order of the question, and nothing but facts."""

import pytest
from PIL import Image

from illustrious.errors import EngineFailed, StudioError, Unavailable
from illustrious.parameters import render, write_png
from illustrious.types import AnalysisRequest, ImageRequest
from illustrious.vision import DEFAULTS
from illustrious.vision.classifier import Classifier, Label
from illustrious.vision.starter import StarterAnalyzer
from tests.vision.drawings import clock, encoded, plain


class Knows(Classifier):
    """Recognises the same in every picture, or fails at each; no child."""

    def __init__(self, *labels: tuple[str, float], error: StudioError | None = None) -> None:
        super().__init__()
        self._labels = [Label(name=name, probability=probability) for name, probability in labels]
        self._error = error

    async def classify(self, picture: Image.Image) -> list[Label]:
        if self._error:
            raise self._error
        return self._labels


async def said(
    image: bytes, question: str = "Describe this image in detail", classifier: Classifier | None = None
) -> str:
    analyzer = StarterAnalyzer(DEFAULTS, classifier or Knows(("umbrella", 0.1)))
    return (await analyzer.analyze(AnalysisRequest(image=image, question=question))).text


async def test_a_description_says_what_it_is_and_then_the_facts() -> None:
    text = await said(encoded(plain("red", 200, 100)), classifier=Knows(("umbrella", 0.62), ("tent", 0.31)))
    assert text.startswith("This is a basic analysis: no vision model is connected. ")
    assert "umbrella (62%), tent (31%)" in text
    assert "200×100 pixels, landscape" in text
    assert "red (100%)" in text
    assert "Ollama" in text  # the remedy


@pytest.mark.parametrize("probability", [0.0, 0.29])
async def test_an_unlikely_label_is_not_said(probability: float) -> None:
    text = await said(encoded(clock()), classifier=Knows(("umbrella", probability)))
    assert "umbrella" not in text
    assert "recognises nothing with enough certainty" in text


async def test_a_label_is_said_from_the_threshold_on() -> None:
    assert "umbrella (30%)" in await said(encoded(clock()), classifier=Knows(("umbrella", 0.3)))


MADE = ImageRequest(
    prompt="a clock, oil painting", negative_prompt="blurry", width=400, height=400, steps=20, guidance=7, seed=42
)


async def test_a_studio_picture_is_described_by_what_it_was_made_from_first() -> None:
    image = write_png(encoded(clock()), render(MADE, model="dreams", sampler="Euler a", version="1"))
    text = await said(image)
    assert (
        "Its own metadata says it was drawn from the prompt “a clock, oil painting”, avoiding “blurry”, "
        "with model dreams, sampler Euler a, steps 20, cfg scale 7, seed 42."
    ) in text
    assert text.index("metadata") < text.index("classifier") < text.index("pixels")


async def test_a_comment_that_is_no_generation_text_is_not_taken_for_one() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0Screenshot"
    assert "metadata" not in await said(encoded(clock(), "JPEG", exif=exif))


async def test_an_endless_prompt_is_cut() -> None:
    image = write_png(
        encoded(clock()),
        render(MADE.model_copy(update={"prompt": "word " * 5000}), model="m", sampler="s", version="1"),
    )
    assert len(await said(image)) < 3000


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("What colors are in it?", "It is without colour, or nearly. Colours by area"),
        ("How big is it?", "It is 400×400 pixels"),
        ("What objects do you see in this image?", "The object classifier"),
        ("Is the background busy?", "Composition"),
        ("Is it blurry or sharp?", "At viewing size"),
        ("Is it a bright picture?", "It is bright"),
        ("Which seed was used?", "Its own metadata"),
    ],
)
async def test_a_question_gets_the_facts_it_is_about_first(question: str, first: str) -> None:
    image = write_png(encoded(clock()), render(MADE, model="m", sampler="s", version="1"))
    text = await said(image, question)
    assert "free questions cannot be answered. What can be measured: " + first in text


async def test_a_question_no_fact_answers_is_not_answered() -> None:
    text = await said(encoded(clock()), "Who owns it?")
    assert "free questions cannot be answered" in text
    assert "Colours by area" in text


@pytest.mark.parametrize("error", [Unavailable("It needs: pip install x."), EngineFailed("It ended; try again.")])
async def test_without_the_classifier_the_other_facts_still_come_and_say_so(error: StudioError) -> None:
    text = await said(encoded(clock()), classifier=Knows(error=error))
    assert f"Objects were not looked for. {error}" in text
    assert "Colours by area" in text


async def test_it_is_always_there_and_says_what_it_is_worth() -> None:
    status = StarterAnalyzer().status()
    assert status.available
    assert "no vision model connected" in (status.note or "")


async def test_different_facts_give_different_words() -> None:
    dark = plain("black")
    dark.paste("#202020", (20, 20, 50, 50))
    texts = [await said(encoded(picture)) for picture in (dark, plain("white"), clock())]
    assert "very dark" in texts[0]
    assert "very bright" in texts[1]
    assert "no edges to judge sharpness" in texts[1]
    assert "edges are sharp" in texts[2]
    assert "without colour" in texts[0]
    assert "without colour" not in await said(encoded(plain("red")))
