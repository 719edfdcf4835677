"""What is said of a drawing: the thing, its colour, its ground, how many, and how sure that is."""

import pytest

from illustrious.vision.drawing import Drawing, Guess, Thing, Word, coloured, described

KINDS = {"fox": "an animal", "wolf": "an animal", "owl": "an animal", "rocket": "a vehicle", "fire": "an object"}


def drawing(
    *guesses: tuple[str, float],
    colour: str = "red",
    ground: str = "white",
    amount: str = "one",
    certainty: float = 0.9,
    drawn: float = 0.99,
    sure: bool = True,
) -> Drawing:
    """``certainty``: of kind, colour, ground and amount alike."""
    things = [
        Thing(one=one, many=f"{one}es", kind=KINDS[one], counted=one != "fire", coloured=one != "rocket")
        for one, _ in guesses
    ]
    kind, *others = (Word(word=word, probability=certainty) for word in (things[0].kind, colour, ground, amount))
    return Drawing(
        drawn=drawn,
        guesses=tuple(Guess(thing=thing, probability=share) for thing, (_, share) in zip(things, guesses, strict=True)),
        kind=kind,
        colour=others[0],
        ground=others[1],
        amount=others[2],
        sure=sure,
    )


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (drawing(("fox", 0.87), ground="blue"), "a red fox on a blue background (87%)."),
        (drawing(("owl", 0.87), ground="blue"), "a red owl on a blue background (87%)."),
        (drawing(("owl", 0.87), certainty=0.4), "an owl (87%)."),
        (drawing(("fox", 0.8), amount="three"), "three red foxes on a white background (80%)."),
        (drawing(("fox", 0.5), ("rocket", 0.4), amount="different"), "a fox and a rocket on a white background (90%)."),
        (drawing(("rocket", 0.8), ground="several colours"), "a rocket on a background of several colours (80%)."),
        (drawing(("fire", 0.8)), "red fire on a white background (80%)."),
    ],
)
def test_what_is_sure_is_said_in_one_sentence(seen: Drawing, words: str) -> None:
    assert described(seen) == f"It looks like a drawing of {words}"


@pytest.mark.parametrize(("second", "certainty"), [(0.05, 0.9), (0.4, 0.35)], ids=["a stopgap", "perhaps one thing"])
def test_a_second_thing_is_named_only_where_there_surely_is_one(second: float, certainty: float) -> None:
    seen = drawing(("fox", 0.6), ("rocket", second), amount="different", certainty=certainty)
    assert described(seen).startswith("It looks like a drawing of a fox")
    assert described(seen).endswith("(60%).")
    assert "rocket" not in described(seen)


def test_what_is_not_sure_is_said_to_be_so_with_what_it_may_be() -> None:
    told = described(drawing(("fox", 0.4), ("wolf", 0.3), ("owl", 0.05), sure=False))
    assert told == (
        "It looks like a drawing of an animal, but the captioner is unsure of which. "
        "Perhaps a fox (40%) or a wolf (30%)."
    )
    told = described(drawing(("fox", 0.09), certainty=0.3, sure=False))
    assert told == "It may be a photograph, or a drawing of something that the captioner does not know."


def test_what_may_be_a_photograph_has_no_thing_drawn() -> None:
    photograph = drawing(("fox", 0.09), certainty=0.3, sure=False)
    brown = photograph.model_copy(update={"colour": Word(word="brown", probability=0.7)})
    assert "may be a photograph" in described(brown)
    assert coloured(brown) == ""


def test_a_picture_of_nothing_known_is_not_called_a_drawing() -> None:
    photograph = drawing(("fox", 0.2), drawn=0.3)
    assert "may be a photograph" in described(photograph)
    assert coloured(photograph) == ""


def test_colours_are_said_as_far_as_they_are_sure() -> None:
    assert coloured(drawing(("fox", 0.9))) == "The fox is red (90%), the background is white (90%)."
    assert coloured(drawing(("fox", 0.4), sure=False)).startswith("The thing drawn is red")
    assert coloured(drawing(("rocket", 0.9))) == "The background is white (90%)."
    assert coloured(drawing(("fox", 0.9), certainty=0.5)) == ""
