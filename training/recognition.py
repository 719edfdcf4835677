"""How well pictures are recognised: what was said of each beside what is in it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from illustrious.vision.drawing import Drawing, named
from training.icons import Pixels
from training.specimens import Specimen, Truth

Look = Callable[[Sequence[Pixels]], list[Drawing]]


@dataclass(frozen=True)
class Verdict:
    drawing: Drawing
    truth: Truth

    @property
    def said(self) -> tuple[str, ...]:
        """The things the picture is said to be of, sure or not."""
        return tuple(guess.thing.one for guess in named(self.drawing.guesses, self.drawing.amount))

    @property
    def certainty(self) -> float:
        return sum(guess.probability for guess in self.drawing.guesses[: len(self.said)])

    @property
    def outright(self) -> bool:
        return self.drawing.drawn >= 0.5 and self.drawing.sure

    @property
    def right(self) -> bool:
        return set(self.said) == set(self.truth.things)


def verdicts(look: Look, specimens: Iterable[Specimen], batch: int = 128) -> list[Verdict]:
    found: list[Verdict] = []
    part: list[Specimen] = []
    for specimen in specimens:
        part.append(specimen)
        if len(part) == batch:
            found += _judged(look, part)
            part = []
    return found + (_judged(look, part) if part else [])


def _judged(look: Look, specimens: list[Specimen]) -> list[Verdict]:
    drawings = look([specimen.pixels for specimen in specimens])
    return [Verdict(drawing, specimen.truth) for drawing, specimen in zip(drawings, specimens, strict=True)]


@dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1, of the pictures where there is something to be right about; ``nan`` where there is none.

    ``top_1``, ``top_5``: the thing is the best guess, is among five (of pictures of one thing or several of a kind).
    ``said``: of all pictures of something, those said outright; ``right_when_said``: of all said outright, those right.
    ``claimed``: of pictures of nothing, those called something outright.
    """

    pictures: int
    top_1: float
    top_5: float
    kind: float
    colour: float
    ground: float
    amount: float
    said: float
    right_when_said: float
    claimed: float

    def __str__(self) -> str:
        parts = [
            f"{name.replace('_', ' ')} {getattr(self, name):.1%}"
            for name in ("top_1", "top_5", "kind", "colour", "ground", "amount", "said", "right_when_said", "claimed")
            if not np.isnan(getattr(self, name))
        ]
        return f"{self.pictures} pictures: {', '.join(parts)}"


def scores(judged: Sequence[Verdict], kinds: dict[str, str]) -> Scores:
    """``kinds``: thing → its kind."""
    alike = [verdict for verdict in judged if len(verdict.truth.things) == 1]
    something = [verdict for verdict in judged if verdict.truth.things]

    def share(of: Sequence[Verdict], right: Callable[[Verdict], bool]) -> float:
        return float(np.mean([right(verdict) for verdict in of])) if of else float("nan")

    return Scores(
        pictures=len(judged),
        top_1=share(alike, lambda verdict: verdict.drawing.guesses[0].thing.one == verdict.truth.things[0]),
        top_5=share(
            alike, lambda verdict: verdict.truth.things[0] in [guess.thing.one for guess in verdict.drawing.guesses[:5]]
        ),
        kind=share(alike, lambda verdict: verdict.drawing.kind.word == kinds[verdict.truth.things[0]]),
        colour=share(
            [verdict for verdict in judged if verdict.truth.colour],
            lambda verdict: verdict.drawing.colour.word == verdict.truth.colour,
        ),
        ground=share(
            [verdict for verdict in judged if verdict.truth.ground],
            lambda verdict: verdict.drawing.ground.word == verdict.truth.ground,
        ),
        amount=share(
            [verdict for verdict in judged if verdict.truth.amount],
            lambda verdict: verdict.drawing.amount.word == verdict.truth.amount,
        ),
        said=share(something, lambda verdict: verdict.outright),
        right_when_said=share([verdict for verdict in judged if verdict.outright], lambda verdict: verdict.right),
        claimed=share([verdict for verdict in judged if not verdict.truth.things], lambda verdict: verdict.outright),
    )


def sure_from(judged: Sequence[Verdict], precision: float) -> float:
    """The least probability such that, of the pictures whose best guess is at least as likely, ``precision`` are right
    (1 when there is none)."""
    drawn = sorted(
        (verdict for verdict in judged if verdict.drawing.drawn >= 0.5), key=lambda verdict: -verdict.certainty
    )
    if not drawn:
        return 1.0
    right = np.cumsum([verdict.right for verdict in drawn]) / np.arange(1, len(drawn) + 1)
    enough = np.flatnonzero(right >= precision)
    return float(drawn[int(enough[-1])].certainty) if len(enough) else 1.0
