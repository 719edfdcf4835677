"""Basic analysis: facts in sentences, in the order of the question, and nothing but facts."""

import pytest
from PIL import Image

from illustrious.errors import EngineFailed, StudioError, Unavailable
from illustrious.parameters import render, write_png
from illustrious.types import AnalysisRequest, ImageRequest
from illustrious.vision import DEFAULTS
from illustrious.vision.classifier import Classifier, Label, Sight
from illustrious.vision.drawing import Drawing
from illustrious.vision.starter import StarterAnalyzer
from tests.vision.drawings import clock, encoded, plain
from tests.vision.test_drawing import drawing


class Knows(Classifier):
    """Recognises the same in every picture, or fails at each; no child."""

    def __init__(
        self,
        *labels: tuple[str, float],
        drawing: Drawing | None = None,
        trouble: str | None = None,
        error: StudioError | None = None,
    ) -> None:
        super().__init__()
        known = tuple(Label(name=name, probability=probability) for name, probability in labels)
        self._sight = Sight(labels=known, drawing=drawing, trouble=trouble)
        self._error = error

    async def look(self, picture: Image.Image) -> Sight:
        if self._error:
            raise self._error
        return self._sight


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
        ("What is the resolution?", "It is 400×400 pixels"),
        ("How many pixels are there?", "It is 400×400 pixels"),
        ("What are the settings?", "Its own metadata"),
        ("What is on the table?", "The object classifier"),
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


FOX = drawing(("fox", 0.87), colour="red", ground="blue")


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("What animal is this?", "It looks like a drawing of a red fox on a blue background (87%)."),
        ("How many foxes are there?", "It looks like a drawing of a red fox"),
        ("What colour is it?", "The fox is red (90%), the background is blue (90%)."),
    ],
)
async def test_a_question_about_a_drawing_gets_what_the_captioner_saw_first(question: str, first: str) -> None:
    text = await said(encoded(clock()), question, Knows(("comic book", 0.9), drawing=FOX))
    assert f"What can be measured: {first}" in text
    assert "comic book" not in text  # what takes it for a photograph has nothing to say of it


async def test_where_the_captioner_is_unsure_or_sees_no_drawing_the_classifier_speaks_too() -> None:
    unsure = drawing(("fox", 0.4), ("wolf", 0.3), sure=False)
    text = await said(encoded(clock()), classifier=Knows(("clock", 0.6), drawing=unsure))
    assert "unsure of which. Perhaps a fox (40%) or a wolf (30%). The object classifier" in text
    photograph = drawing(("fox", 0.05), drawn=0.05)
    text = await said(encoded(clock()), classifier=Knows(("clock", 0.6), drawing=photograph))
    assert "may be a photograph. The object classifier, which can be wrong" in text
    assert "clock (60%)" in text
    assert "fox" not in text


async def test_a_captioner_that_cannot_look_says_why() -> None:
    broken = Knows(("clock", 0.6), trouble="The captioner is damaged. Install the studio again.")
    text = await said(encoded(clock()), classifier=broken)
    assert "Drawings were not looked at. The captioner is damaged. Install the studio again. The object" in text
