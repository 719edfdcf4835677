"""Basic analysis without a vision model: what the file says of itself, and what can be measured, in plain sentences.

Nothing here is invented: each sentence is one fact. It cannot caption a picture or answer a free question, and says so.
"""

import asyncio
import re
from collections.abc import Sequence

from PIL import Image

from illustrious import parameters
from illustrious.errors import EngineFailed, Unavailable
from illustrious.parameters import Parameters
from illustrious.pictures import open_picture, to_rgb
from illustrious.registry import registered
from illustrious.types import Analysis, AnalysisRequest, BackendStatus
from illustrious.vision import DEFAULTS, VisionOptions
from illustrious.vision.classifier import Classifier, Label, Sight
from illustrious.vision.drawing import coloured, described, is_said
from illustrious.vision.facts import Facts, measure

WORTH_SAYING = 0.30
"""The probability from which on a label is said. On photographs four in five of these are right."""

LONGEST_PROMPT = 1000
"""Characters of a prompt that are told."""

BASIC = "This is a basic analysis: no vision model is connected."
UNANSWERED = (
    "This is a basic analysis: no vision model is connected, so free questions cannot be answered. "
    "What can be measured:"
)
NOTE = (
    "This is a basic analysis, no vision model connected: objects it knows, colours, light, composition. To have "
    "questions answered install Ollama and a model that sees (`ollama pull llama3.2-vision`)."
)
REMEDY = "For real answers, install a vision model in Ollama (for example `ollama pull llama3.2-vision`)."

DESCRIPTION = re.compile(
    r"\b(describ\w*|descriptions?|captions?|analy[sz]\w*|tell me about|summar\w*|what do you see|what can you see"
    r"|what('s| is) (in )?(this|the) (image|picture|photo))\b",
    re.IGNORECASE,
)
"""Questions that ask for a description, which is what the facts together are."""

TOPICS = {
    "origin": r"prompts?|seeds?|samplers?|steps|generated|settings|parameters|metadata|made|ai",
    "objects": r"objects?|things?|animals?|plants?|food|vehicles?|buildings?|subjects?|drawn|drawings?",
    "drawn colours": r"colou?r\w*|background",
    "size": r"sizes?|how (big|large|wide|tall|high)|dimensions?|resolution|pixels?|width|height|orientation|portrait"
    r"|landscape|square|aspect|format",
    "colours": r"colou?r\w*|palette|hues?|tints?|black and white|gr[ea]y\w*|monochrome",
    "light": r"light\w*|bright\w*|dark\w*|expos\w*|contrast\w*|mood|time of day",
    "sharpness": r"sharp\w*|blur\w*|focus\w*|soft\w*|quality|noisy?",
    "composition": r"compos\w*|background|where|position\w*|centre\w*|center\w*|layout|busy|empty|detail\w*",
}
"""Words of a question, and the facts they ask for. The order is that of a description."""

ANYTHING = r"what('s| is| are)|what kind|which kind|how many|see|show\w*|contain\w*"
"""Words that ask for objects where the question names no other topic: most questions have one of them."""


@registered("starter")
class StarterAnalyzer:
    def __init__(self, options: VisionOptions = DEFAULTS, classifier: Classifier | None = None) -> None:
        self._max_pixels = options.max_pixels
        self._classifier = classifier or Classifier(options.threads or 1, options.idle_seconds)

    async def start(self) -> None:
        """The classifier starts with the first picture: until then it costs no memory."""

    def status(self) -> BackendStatus:
        return BackendStatus(
            name="starter",
            available=True,
            model="starter",
            device="cpu",
            note=NOTE,
            vision=True,
            pid=self._classifier.pid,
        )

    async def refresh(self) -> None: ...

    async def analyze(self, request: AnalysisRequest) -> Analysis:
        picture, origin = await asyncio.to_thread(self._open, request.image)
        facts, seen = await asyncio.gather(asyncio.to_thread(measure, picture), self._seen(picture))
        sentences = {"origin": _origin(origin), **seen, **_measured(facts)}
        return Analysis(text=_answer(request.question, sentences), model="starter")

    async def close(self) -> None:
        await self._classifier.close()

    def _open(self, data: bytes) -> tuple[Image.Image, Parameters | None]:
        picture = open_picture(data, self._max_pixels)
        text = parameters.read(picture)
        return to_rgb(picture), parameters.parse(text) if text else None

    async def _seen(self, picture: Image.Image) -> dict[str, str]:
        try:
            return _recognised(await self._classifier.look(picture))
        except (Unavailable, EngineFailed) as error:
            return {"objects": f"Objects were not looked for. {error}"}


def _answer(question: str, sentences: dict[str, str]) -> str:
    """The sentences, those the question is about first."""
    said = {topic: sentence for topic, sentence in sentences.items() if sentence}
    if DESCRIPTION.search(question):
        return " ".join([BASIC, *said.values(), REMEDY])
    asked = [topic for topic in said if _has(question, TOPICS[topic])]
    if not asked and _has(question, ANYTHING):
        asked = [topic for topic in said if topic == "objects"]
    rest = [topic for topic in said if topic not in asked]
    return " ".join([UNANSWERED, *(said[topic] for topic in asked + rest), REMEDY])


def _has(question: str, words: str) -> bool:
    return re.search(rf"\b({words})\b", question, re.IGNORECASE) is not None


def _origin(made: Parameters | None) -> str:
    """What the file says; it may say anything, so it is quoted. A comment without settings is not about generation."""
    if made is None or not made.settings:
        return ""
    said = []
    if made.prompt:
        said.append(f"drawn from the prompt “{_shortened(made.prompt)}”")
    if made.negative_prompt:
        said.append(f"avoiding “{_shortened(made.negative_prompt)}”")
    kept = ("Model", "Sampler", "Steps", "CFG scale", "Seed")
    settings = [f"{name.lower()} {_shortened(made.settings[name])}" for name in kept if name in made.settings]
    if settings:
        said.append(f"with {', '.join(settings)}")
    return f"Its own metadata says it was {', '.join(said)}." if said else ""


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_PROMPT else text[:LONGEST_PROMPT] + "…"


def _recognised(sight: Sight) -> dict[str, str]:
    """A drawing's thing where the captioner is sure of it; else also what the classifier takes a photograph for."""
    if sight.drawing is None:
        trouble = f"Drawings were not looked at. {sight.trouble} " if sight.trouble else ""
        return {"objects": trouble + _likely(sight.labels)}
    said = described(sight.drawing)
    objects = said if is_said(sight.drawing) else f"{said} {_likely(sight.labels)}"
    return {"objects": objects, "drawn colours": coloured(sight.drawing)}


def _likely(labels: Sequence[Label]) -> str:
    named = [f"{label.name} ({label.probability:.0%})" for label in labels if label.probability >= WORTH_SAYING]
    if not named:
        return "The object classifier recognises nothing with enough certainty; it does not know people or scenes."
    return f"The object classifier, which can be wrong and is made for photographs, recognises: {', '.join(named)}."


def _measured(facts: Facts) -> dict[str, str]:
    colours = [f"{colour.name} ({colour.share:.0%})" for colour in facts.colours]
    grey = "" if facts.colourful else "It is without colour, or nearly. "
    light = _word(facts.lightness, (0.2, "very dark"), (0.4, "dark"), (0.65, "of medium brightness"), (0.85, "bright"))
    contrast = _word(facts.contrast, (0.05, "hardly any"), (0.3, "low"), (0.6, "medium"), (2.0, "high"))
    return {
        "size": f"It is {facts.width}×{facts.height} pixels, {_shape(facts)}.",
        "colours": f"{grey}Colours by area: {', '.join(colours)}.",
        "light": f"It is {light or 'very bright'}, with {contrast} contrast.",
        "sharpness": _sharpness(facts.sharpness),
        "composition": _composition(facts),
    }


def _word(value: float, *upper_bounds: tuple[float, str]) -> str:
    return next((word for bound, word in upper_bounds if value < bound), "")


def _shape(facts: Facts) -> str:
    return "square" if facts.orientation == "square" else f"{facts.orientation} orientation"


def _sharpness(sharpness: float | None) -> str:
    if sharpness is None:
        return "It has no edges to judge sharpness by."
    word = _word(sharpness, (0.12, "blurred or very soft"), (0.25, "somewhat soft"), (1.1, "sharp"))
    return f"At viewing size its edges are {word}."


def _composition(facts: Facts) -> str:
    parts = []
    if facts.background:
        parts.append(f"the rim is almost all {facts.background}")
    if facts.focus:
        parts.append(f"most of the detail is in the {facts.focus}")
    elif facts.sharpness is not None:
        parts.append("the detail is spread over the picture")
    amount = _word(facts.detail, (0.01, "hardly any fine detail"), (0.3, ""), (1.1, "a great deal of fine detail"))
    if amount:
        parts.append(f"there is {amount}")
    return f"Composition: {'; '.join(parts)}." if parts else ""
